// The only kernel header that knows which compiler pass it is in.
//
// Every header in this folder is a leaf: host- and device-neutral, free of standard headers with inline
// bodies, and inside namespace popgrad::POPGRAD_TARGET, so that code built for one instruction set can never
// be linked in for another. POPGRAD_TARGET comes from the build: baseline, avx2, avx512 or cuda.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifndef POPGRAD_TARGET
#error "POPGRAD_TARGET is set by the build; kernel headers are included by backend sources only"
#endif

#if defined(__CUDACC__)
#define POPGRAD_HD __host__ __device__ __forceinline__
#define POPGRAD_MATH(function) ::function
#else
// Always inline, so that no out-of-line copy exists that the linker could share between instruction sets.
#define POPGRAD_HD inline __attribute__((always_inline))
#define POPGRAD_MATH(function) __builtin_##function
#endif

// Bytes of a vector register, and the register tile of the product kernel: rows x vectors accumulators, which
// with one vector of the right-hand side and one broadcast must fit 16 (SSE, AVX2, NEON: 32) or 32 registers.
#if defined(__AVX512F__)
#define POPGRAD_VECTOR_BYTES 64
#define POPGRAD_TILE_ROWS 6
#define POPGRAD_TILE_VECTORS 4
#elif defined(__AVX2__)
#define POPGRAD_VECTOR_BYTES 32
#define POPGRAD_TILE_ROWS 6
#define POPGRAD_TILE_VECTORS 2
#else
#define POPGRAD_VECTOR_BYTES 16
#define POPGRAD_TILE_ROWS 4
#define POPGRAD_TILE_VECTORS 2
#endif
