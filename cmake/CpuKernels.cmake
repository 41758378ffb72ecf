# native/kernels/cpu/*.cc is compiled once per instruction-set level, because a prebuilt binary must run on any x86-64
# and be fast on a new one; native/kernels/*.cc picks a level at run time. Each compilation defines
#   JIT_FLUX_ISA   one of JIT_FLUX_ISA_LEVELS: the sources live in namespace jitflux::kernels::isa_<level>
#   JIT_FLUX_AMX   1 where there are tiles, in silicon or (amx_emulated, for tests on any CPU) in C++; else 0
#
# These sources must not emit functions outside their own namespace: an inline function of a shared header, compiled
# here for AVX-512 and picked by the linker for everybody, is an illegal instruction on an older machine. So they use no
# ATen, keep helpers in namespace isa_<level> or anonymous, and avoid out-of-line std:: templates;
# scripts/check-binary.mjs looks for weak symbols in their objects.
set(JIT_FLUX_ISA_LEVELS default avx2 avx512 avx512bf16 amx amx_emulated)
set(jit_flux_isa_flags_default -march=x86-64)
set(jit_flux_isa_flags_avx2 -march=x86-64 -mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt)
set(jit_flux_isa_flags_avx512 ${jit_flux_isa_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
    -mprefer-vector-width=512)
set(jit_flux_isa_flags_avx512bf16 ${jit_flux_isa_flags_avx512} -mavx512bf16)
set(jit_flux_isa_flags_amx ${jit_flux_isa_flags_avx512bf16} -mamx-tile -mamx-bf16 -DJIT_FLUX_AMX=1)
set(jit_flux_isa_flags_amx_emulated ${jit_flux_isa_flags_default} -DJIT_FLUX_AMX=1)

# Contraction to fused multiply-add is allowed: results are reproducible per level, and more accurate. Value-changing
# reassociation (-ffast-math) is not; kernels spell out their vector accumulators.
set(jit_flux_kernel_flags -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math)

# GCC 12 takes the intentionally undefined operands inside its own AVX-512 intrinsics for mistakes (GCC bug 105593).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND jit_flux_kernel_flags -Wno-uninitialized -Wno-maybe-uninitialized)
  # Vectors are passed to inlined functions only.
  list(APPEND jit_flux_kernel_flags -Wno-psabi)
endif()

# The objects become part of whatever `engine`, an object library, is linked into: object libraries do not hold others.
function(jit_flux_add_cpu_kernels engine)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cpu/*.cc")
  if(NOT sources)
    return()
  endif()
  foreach(isa IN LISTS JIT_FLUX_ISA_LEVELS)
    set(target jit_flux_kernels_${isa})
    add_library(${target} OBJECT ${sources})
    target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native")
    target_compile_definitions(${target} PRIVATE JIT_FLUX_ISA=${isa})
    target_link_libraries(${target} PRIVATE jit_flux_options)
    target_compile_options(${target} PRIVATE ${jit_flux_isa_flags_${isa}} ${jit_flux_kernel_flags})
    target_sources(${engine} INTERFACE $<TARGET_OBJECTS:${target}>)
  endforeach()
endfunction()
