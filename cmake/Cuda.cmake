# The CUDA build (JIT_FLUX_CUDA=ON), on top of LibTorch.cmake and a LibTorch with CUDA:
#   jit_flux_libtorch_cuda          c10_cuda, torch_cuda, the shared CUDA runtime, and their headers
#   jit_flux_add_cuda_kernels(T)    compiles native/kernels/cuda/*.cu with nvcc, and their table, into T
#
# nvcc comes from $CUDACXX, /usr/local/cuda or PATH. No merged toolkit root is needed: the headers of cuBLAS and the like
# come with the wheels beside LibTorch (nvidia/cu13/include), and libraries are linked by their full names.

# C++17 for CUDA: nvcc 13 no longer knows the option by which CMake before 3.26 asks for C++20, and the kernels' headers
# need no more. The host side is ordinary C++20, compiled by the C++ compiler.
set(JIT_FLUX_CUDA_STANDARD 17)
# As in scripts/check-cuda.mjs.
set(jit_flux_nvcc_flags $<$<BOOL:${JIT_FLUX_WERROR}>:-Werror=all-warnings> -Xcompiler=-Wall --expt-relaxed-constexpr)

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  # A100, RTX 30, RTX 40, H100; what is newer compiles the PTX when it first loads the library.
  set(CMAKE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;90-virtual" CACHE STRING "CUDA architectures")
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(JIT_FLUX_NVCC nvcc PATHS /usr/local/cuda/bin NO_DEFAULT_PATH)
  find_program(JIT_FLUX_NVCC nvcc)
  if(NOT JIT_FLUX_NVCC)
    message(FATAL_ERROR "JIT_FLUX_CUDA needs nvcc: install the CUDA toolkit 13.0, or name its nvcc in CUDACXX")
  endif()
  set(CMAKE_CUDA_COMPILER "${JIT_FLUX_NVCC}")
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER_VERSION MATCHES "^13\\.")
  # LibTorch's CUDA libraries bring the runtime of this major version along.
  message(FATAL_ERROR "CUDA 13 is needed for LibTorch ${JIT_FLUX_LIBTORCH_VERSION}; "
    "${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
if(JIT_FLUX_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${JIT_FLUX_CCACHE}")
endif()
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2 -g -lineinfo -DNDEBUG")

# The CUDA libraries of the wheels lie beside the torch folder, as pip installs them; failing that, the toolkit's.
get_filename_component(jit_flux_wheels "${JIT_FLUX_LIBTORCH}/../nvidia/cu13" ABSOLUTE)
set(jit_flux_cuda_includes ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
if(EXISTS "${jit_flux_wheels}/include")
  list(APPEND jit_flux_cuda_includes "${jit_flux_wheels}/include")
endif()
# Not cached, since they go with JIT_FLUX_LIBTORCH.
function(jit_flux_find_cuda_library variable name)
  find_library(${variable} NAMES "${name}"
    PATHS "${jit_flux_wheels}/lib" ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES}
    NO_DEFAULT_PATH NO_CACHE)
  if(NOT ${variable})
    message(FATAL_ERROR "${name} is neither in ${jit_flux_wheels}/lib nor in the CUDA toolkit")
  endif()
  set(${variable} "${${variable}}" PARENT_SCOPE)
endfunction()
jit_flux_find_cuda_library(JIT_FLUX_CUDART libcudart.so.13)
message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: ${CMAKE_CUDA_COMPILER}, runtime ${JIT_FLUX_CUDART}")

add_library(jit_flux_libtorch_cuda INTERFACE)
target_include_directories(jit_flux_libtorch_cuda SYSTEM INTERFACE
  # The toolkit's first: its runtime headers are the ones that nvcc uses, and the wheels lack some of them.
  ${jit_flux_cuda_includes})
target_link_libraries(jit_flux_libtorch_cuda INTERFACE
  jit_flux_libtorch
  "${JIT_FLUX_LIBTORCH}/lib/libtorch_cuda.so" "${JIT_FLUX_LIBTORCH}/lib/libc10_cuda.so" "${JIT_FLUX_CUDART}")

function(jit_flux_add_cuda_kernels target)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cuda/*.cu")
  add_library(jit_flux_cuda_kernels OBJECT ${sources} "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cuda/table.cc")
  set_target_properties(jit_flux_cuda_kernels PROPERTIES
    CUDA_STANDARD ${JIT_FLUX_CUDA_STANDARD}
    CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY None)
  target_include_directories(jit_flux_cuda_kernels PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native")
  target_compile_options(jit_flux_cuda_kernels PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:${jit_flux_nvcc_flags};-Xcompiler=-ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}=.>"
    "$<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}=.>")
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:jit_flux_cuda_kernels>)
endfunction()
