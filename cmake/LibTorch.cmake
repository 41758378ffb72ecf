# LibTorch as the target jit_flux_libtorch, from the directory JIT_FLUX_LIBTORCH (lib/, include/, version.py or
# build-version). scripts/build-native.mjs passes it, found or provisioned by src/libtorch/libtorch.ts: where LibTorch is
# looked for is decided there alone. With JIT_FLUX_CUDA only a LibTorch with CUDA counts.
#
# The libraries are imported directly rather than through find_package(Torch): its config pulls in Caffe2's probing of
# MKL, Kineto and CUDA, and adds link flags we do not want; ATen needs three libraries and two include directories.

set(JIT_FLUX_LIBTORCH "" CACHE PATH "LibTorch directory (with lib/ and include/)")

file(READ "${CMAKE_CURRENT_SOURCE_DIR}/libtorch.json" jit_flux_libtorch_json)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/libtorch.json")
set(jit_flux_required_libraries lib/libc10.so lib/libtorch_cpu.so lib/libtorch.so)
if(JIT_FLUX_CUDA)
  list(APPEND jit_flux_required_libraries lib/libc10_cuda.so lib/libtorch_cuda.so)
endif()
string(JSON jit_flux_libtorch_oldest GET "${jit_flux_libtorch_json}" supported minimum)
string(JSON jit_flux_libtorch_newest GET "${jit_flux_libtorch_json}" supported maximum)

if(NOT JIT_FLUX_LIBTORCH)
  message(FATAL_ERROR "JIT_FLUX_LIBTORCH is not set. Run `npm run build:native`, which finds or fetches LibTorch")
endif()
foreach(required ${jit_flux_required_libraries} include/ATen/ATen.h)
  if(NOT EXISTS "${JIT_FLUX_LIBTORCH}/${required}")
    set(jit_flux_kind "LibTorch directory")
    if(JIT_FLUX_CUDA)
      string(APPEND jit_flux_kind " with CUDA")
    endif()
    message(FATAL_ERROR "JIT_FLUX_LIBTORCH=${JIT_FLUX_LIBTORCH} is not a ${jit_flux_kind}: ${required} is missing")
  endif()
endforeach()

# The C++ ABI is stable within a minor version only, so the version is compiled into the core and checked at run time.
if(EXISTS "${JIT_FLUX_LIBTORCH}/version.py")
  file(STRINGS "${JIT_FLUX_LIBTORCH}/version.py" jit_flux_version_line REGEX "^__version__ *=" LIMIT_COUNT 1)
elseif(EXISTS "${JIT_FLUX_LIBTORCH}/build-version")
  file(STRINGS "${JIT_FLUX_LIBTORCH}/build-version" jit_flux_version_line LIMIT_COUNT 1)
endif()
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+[A-Za-z0-9.+]*" JIT_FLUX_LIBTORCH_VERSION "${jit_flux_version_line}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" jit_flux_libtorch_minor "${JIT_FLUX_LIBTORCH_VERSION}")
if(NOT JIT_FLUX_LIBTORCH_VERSION)
  message(FATAL_ERROR "No LibTorch version in ${JIT_FLUX_LIBTORCH}/version.py or build-version")
endif()
if(jit_flux_libtorch_minor VERSION_LESS jit_flux_libtorch_oldest
   OR jit_flux_libtorch_minor VERSION_GREATER jit_flux_libtorch_newest)
  message(FATAL_ERROR "LibTorch ${JIT_FLUX_LIBTORCH_VERSION} in ${JIT_FLUX_LIBTORCH} is outside the supported range "
    "${jit_flux_libtorch_oldest} - ${jit_flux_libtorch_newest}")
endif()
message(STATUS "LibTorch ${JIT_FLUX_LIBTORCH_VERSION}: ${JIT_FLUX_LIBTORCH}")

add_library(jit_flux_libtorch INTERFACE)
target_include_directories(jit_flux_libtorch SYSTEM INTERFACE
  "${JIT_FLUX_LIBTORCH}/include"
  "${JIT_FLUX_LIBTORCH}/include/torch/csrc/api/include")
target_link_libraries(jit_flux_libtorch INTERFACE
  # libtorch.so holds nothing that the core calls; it is loaded beside the others, in the order of libtorch.ts.
  "${JIT_FLUX_LIBTORCH}/lib/libtorch.so" "${JIT_FLUX_LIBTORCH}/lib/libtorch_cpu.so" "${JIT_FLUX_LIBTORCH}/lib/libc10.so")
target_link_options(jit_flux_libtorch INTERFACE "-Wl,-rpath-link,${JIT_FLUX_LIBTORCH}/lib")
