# What the Makefile changes in llama-cpp-python's build: several sources to a run of the compiler, which halves the time; and
# nothing of llama.cpp's library for its own programs, which the bindings don't load.
set(CMAKE_UNITY_BUILD ON)
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_BUILD_TOOLS OFF)
# These refuse the headers of the others.
set(apart "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/tools/mtmd/mtmd-helper")
cmake_language(DEFER CALL set_source_files_properties "${apart}.cpp" "${apart}-gen.cpp"
    TARGET_DIRECTORY mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
