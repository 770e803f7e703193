#!/usr/bin/env bash
# Runs exported ONNX variants on an emulated arm64 processor and compares their greedy tokens with this machine's.
#
#     benchmarks/arm64.sh VARIANT… [-- OPTIONS OF arm64.py answer]
#
# Needs an x86-64 Debian or Ubuntu with `apt-get install qemu-user-static mmdebstrap`, no root rights beyond that, no kernel support
# for foreign programs. What it downloads stays in SKD_ARM64 (.cache/arm64). SKD_ARM64_CPU is one of `qemu-aarch64-static -cpu help`.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
work=${SKD_ARM64:-$here/.cache/arm64}
cpu=${SKD_ARM64_CPU:-cortex-a76}
suite=${SKD_ARM64_SUITE:-bookworm}
python=${PYTHON:-python}
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)

variants=() options=()
while (($#)); do
    if [[ $1 == -- ]]; then shift; options=("$@"); break; fi
    variants+=("$1"); shift
done
((${#variants[@]})) || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
if [[ -z $qemu ]] || ! command -v mmdebstrap >/dev/null; then
    echo "arm64.sh needs two programs: apt-get install qemu-user-static mmdebstrap" >&2; exit 2
fi
mkdir -p "$work"

# A Debian for arm64, unpacked and not configured: nothing foreign has to run for that.
if [[ ! -e $work/root/usr/bin/python3 ]]; then
    rm -rf "$work/root"
    mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libstdc++6 "$suite" "$work/root"
fi
# QEMU shows programs the host's /proc/cpuinfo, over which ONNX Runtime's reader of Arm's form falls. Files in the root win.
mkdir -p "$work/root/proc"
for core in 0 1; do
    printf 'processor\t: %d\nFeatures\t: fp asimd atomics asimdhp asimdrdm asimddp\nCPU implementer\t: 0x41\n' "$core"
    printf 'CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done > "$work/root/proc/cpuinfo"
interpreter=$(ls "$work"/root/usr/bin/python3.* | grep -E 'python3\.[0-9]+$')
minor=${interpreter##*python}

# The package's wheel, from a copy so that nothing is left in the checkout, and the aarch64 wheels of what it needs.
source=$(mktemp -d); trap 'rm -rf "$source"' EXIT
cp -r "$here"/{switchkd,cli,export,hardware,runtime,pyproject.toml,README.md,LICENSE} "$source"
rm -rf "$work/wheel"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$source"
if ! cmp -s "$here/constraints.txt" "$work/site/constraints.txt"; then
    rm -rf "$work/site"
    "$python" -m pip install --quiet --target "$work/site" --only-binary=:all: --implementation cp --python-version "$minor" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        --constraint "$here/constraints.txt" "$(echo "$work"/wheel/switchkd-*.whl)[onnx]"
    cp "$here/constraints.txt" "$work/site"
fi
"$python" -m pip install --quiet --target "$work/site" --no-deps --upgrade "$work"/wheel/switchkd-*.whl

rm -rf "$work"/{here,arm64}
"$python" "$here/benchmarks/arm64.py" answer "${variants[@]}" --out "$work/here" "${options[@]}"
PYTHONPATH=$work/site "$qemu" -cpu "$cpu" -L "$work/root" "$interpreter" \
    "$here/benchmarks/arm64.py" answer "${variants[@]}" --out "$work/arm64" "${options[@]}"
"$python" "$here/benchmarks/arm64.py" compare "$work/here" "$work/arm64"
