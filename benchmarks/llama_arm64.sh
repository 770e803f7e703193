#!/usr/bin/env bash
# Cross-compiles llama.cpp for arm64: kernels for several sets of instructions, of which llama.cpp takes the best that runs.
#
#     benchmarks/llama_arm64.sh FOLDER
#
# FOLDER/llama_cpp is then llama-cpp-python of constraints.txt with these libraries, to be put on PYTHONPATH. Needs
# `apt-get install g++-aarch64-linux-gnu cmake ninja-build`; took 20 minutes of two busy cores. JOBS=1 compiles one file at a time.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?"a folder"}
python=${PYTHON:-python} jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
package=$(grep '^llama-cpp-python==' "$here/constraints.txt")
stamp=$out/.$package
[[ ! -e $stamp ]] || exit 0
for program in aarch64-linux-gnu-gcc aarch64-linux-gnu-g++ cmake ninja; do
    command -v "$program" >/dev/null ||
        { echo "llama_arm64.sh needs $program: apt-get install g++-aarch64-linux-gnu cmake ninja-build" >&2; exit 2; }
done

build=$(mktemp -d); trap 'rm -rf "$build"' EXIT
"$python" -m pip download --quiet --no-deps --no-binary=:all: --dest "$build" "$package"
tar -xf "$build"/llama_cpp_python-*.tar.gz -C "$build"
source=$(echo "$build"/llama_cpp_python-*/)
# Of llama.cpp's eight sets three: Cortex-A72's, Cortex-A76's and one with i8mm and SVE2. All would take twice as long.
sed -E -i '/ggml_add_cpu_backend_variant\(/{/\((armv8\.0_1|armv8\.2_2|armv8\.6_2)[ )]/!d}' "$source/vendor/llama.cpp/ggml/src/CMakeLists.txt"

# Threads by llama.cpp itself: the emulated system then needs no OpenMP.
cmake -S "$source/vendor/llama.cpp" -B "$build/made" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN' -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_MTMD=ON > "$build/log" || { tail -20 "$build/log" >&2; exit 1; }
cmake --build "$build/made" --parallel "$jobs" --target llama mtmd > "$build/log" || { tail -20 "$build/log" >&2; exit 1; }

rm -rf "$out"; mkdir -p "$out"
cp -r "$source/llama_cpp" "$out"; mkdir -p "$out/llama_cpp/lib"
cp -a "$build"/made/bin/lib*.so* "$out/llama_cpp/lib"
aarch64-linux-gnu-strip --strip-unneeded "$out"/llama_cpp/lib/*.so
touch "$stamp"
