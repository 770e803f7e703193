#!/usr/bin/env bash
# Runs exported variants, ONNX and GGUF, on emulated processors and compares their greedy tokens with this machine's.
#
#     benchmarks/processors.sh [VARIANT…] [-- OPTIONS OF processors.py answer]
#
# Bare, a small random student is made and exported in every precision.
# SKD_PROCESSORS: which, of `qemu-x86_64 -cpu help` and `qemu-aarch64 -cpu help` (default: see below).
# Needs an x86-64 Debian or Ubuntu with `apt-get install qemu-user mmdebstrap g++-aarch64-linux-gnu cmake ninja-build`, no root rights
# beyond that, no kernel support for foreign programs. What it downloads and compiles stays in SKD_EMULATED (.cache/processors).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
work=${SKD_EMULATED:-$here/.cache/processors}
suite=${SKD_EMULATED_SUITE:-bookworm}
python=${PYTHON:-python}
processors=${SKD_PROCESSORS:-x86_64/Nehalem x86_64/IvyBridge x86_64/Haswell x86_64/max aarch64/cortex-a72 aarch64/cortex-a76 aarch64/max}

emulator() { command -v "qemu-$1" || command -v "qemu-$1-static" || { echo "processors.sh needs qemu-$1: apt-get install qemu-user" >&2; return 2; }; }

variants=() options=()
while (($#)); do
    if [[ $1 == -- ]]; then shift; options=("$@"); break; fi
    variants+=("$1"); shift
done
for processor in $processors; do emulator "${processor%%/*}" >/dev/null; done
[[ $(uname -m) == x86_64 ]] || { echo "processors.sh runs on x86-64 alone" >&2; exit 2; }
mkdir -p "$work"
if ((! ${#variants[@]})); then
    "$python" "$here/benchmarks/small_student.py" "$work/small"
    variants=("$work"/small/{onnx,gguf}-*)
fi

has_gguf() { grep -lqsE '"format": "(gguf|hybrid)"' "${variants[@]/%//manifest.json}"; }

# A Debian for arm64, unpacked and not configured: nothing foreign has to run for that.
prepare_root() {
    command -v mmdebstrap >/dev/null || { echo "processors.sh needs mmdebstrap: apt-get install mmdebstrap" >&2; exit 2; }
    if [[ ! -e $work/root/usr/bin/python3 ]]; then
        rm -rf "$work/root"
        mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libstdc++6 "$suite" "$work/root"
    fi
}

# QEMU shows programs the host's /proc/cpuinfo, over which ONNX Runtime's reader of Arm's form falls. Files in the root win.
write_cpuinfo() {
    local features='fp asimd' part=0xd08
    case $1 in
    cortex-a76) features+=' atomics fphp asimdhp asimdrdm asimddp' part=0xd0b ;;
    max) features+=' atomics fphp asimdhp asimdrdm asimddp sve sve2 i8mm bf16' part=0x051 ;;
    esac
    mkdir -p "$work/root/proc"
    for core in 0 1; do
        printf 'processor\t: %d\nFeatures\t: %s\nCPU implementer\t: 0x41\n' "$core" "$features"
        printf 'CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: %s\nCPU revision\t: 1\n\n' "$part"
    done > "$work/root/proc/cpuinfo"
}

# The package's wheel, from a copy so that nothing is left in the checkout, and the aarch64 wheels of what it needs.
prepare_site() {
    local source minor=${1##*python}
    source=$(mktemp -d)
    cp -r "$here"/{switchkd,cli,export,hardware,runtime,pyproject.toml,README.md,LICENSE} "$source"
    rm -rf "$work/wheel"
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$source"
    rm -rf "$source"
    if ! cmp -s "$here/constraints.txt" "$work/site/constraints.txt"; then
        rm -rf "$work/site"
        # Beside the extra onnx, what the extra gguf brings but for llama-cpp-python, of which there is no aarch64 wheel.
        "$python" -m pip install --quiet --target "$work/site" --only-binary=:all: --implementation cp --python-version "$minor" \
            --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
            --constraint "$here/constraints.txt" "$(echo "$work"/wheel/switchkd-*.whl)[onnx]" gguf diskcache typing-extensions
        cp "$here/constraints.txt" "$work/site"
    fi
    "$python" -m pip install --quiet --target "$work/site" --no-deps --upgrade "$work"/wheel/switchkd-*.whl
}

# answer ARCHITECTURE PROCESSOR: one file a variant in $work/answers/ARCHITECTURE-PROCESSOR. A crash leaves its variant and the rest out.
answer() {
    local paths=${PYTHONPATH:-} command=("$python")
    if [[ $1 == aarch64 ]]; then
        write_cpuinfo "$2"
        paths=$work/llama-aarch64:$work/site command=(-L "$work/root" "$interpreter")
    fi
    for variant in "${variants[@]}"; do
        PYTHONPATH=$paths "$(emulator "$1")" -cpu "$2" "${command[@]}" "$here/benchmarks/processors.py" answer "$variant" \
            --out "$work/answers/$1-$2" "${options[@]}" 2> "$work/said" ||
            grep -v 'warning: TCG' "$work/said" | tail -1 | sed "s|^|$1/$2, $(basename "$variant"): |" >&2
    done
}

rm -rf "$work/answers"
if [[ $processors == *aarch64* ]]; then
    if has_gguf; then PYTHON=$python "$here/benchmarks/llama_arm64.sh" "$work/llama-aarch64"; fi
    prepare_root
    interpreter=$(ls "$work"/root/usr/bin/python3.* | grep -E 'python3\.[0-9]+$')
    prepare_site "$interpreter"
fi
"$python" "$here/benchmarks/processors.py" answer "${variants[@]}" --out "$work/answers/here" "${options[@]}"
there=()
for processor in $processors; do
    answer "${processor%%/*}" "${processor##*/}"
    there+=("$work/answers/${processor/\//-}")
done
"$python" "$here/benchmarks/processors.py" compare "$work/answers/here" "${there[@]}"
