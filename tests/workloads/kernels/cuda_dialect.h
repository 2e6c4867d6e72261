// The part of CUDA C++ that the kernels here use: for clang without a CUDA toolkit, and, in the names that clang has
// for it, for nvcc.
#pragma once

#ifdef __NVCC__

using Word = unsigned int;
using LongWord = unsigned long long;

__device__ inline Word __nvvm_read_ptx_sreg_tid_x() { return threadIdx.x; }
__device__ inline Word __nvvm_read_ptx_sreg_tid_y() { return threadIdx.y; }
__device__ inline Word __nvvm_read_ptx_sreg_ctaid_x() { return blockIdx.x; }
__device__ inline Word __nvvm_read_ptx_sreg_ctaid_y() { return blockIdx.y; }
__device__ inline Word __nvvm_read_ptx_sreg_ntid_x() { return blockDim.x; }
__device__ inline Word __nvvm_read_ptx_sreg_nctaid_x() { return gridDim.x; }
__device__ inline void __nvvm_bar_sync(int) { __syncthreads(); }
__device__ inline float __nvvm_ex2_approx_f(float x) { return exp2f(x); }
__device__ inline float __nvvm_lg2_approx_f(float x) { return __log2f(x); }
__device__ inline float __nvvm_sqrt_rn_f(float x) { return __fsqrt_rn(x); }
// By value: `control` is what PTX calls c, of whole warps.
__device__ inline int __nvvm_shfl_sync_down_i32(Word mask, int value, int offset, int) {
  return __shfl_down_sync(mask, value, static_cast<Word>(offset));
}
#define __builtin_fmaf __fmaf_rn
#define __builtin_bit_cast(Type, value) BitCast<Type>(value)
template <typename To, typename From>
__device__ inline To BitCast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(result));
  return result;
}

#else

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))

using Word = unsigned int;
using LongWord = unsigned long long;

#endif

// The special registers.
__device__ inline Word ThreadIndex() { return __nvvm_read_ptx_sreg_tid_x(); }
__device__ inline Word ThreadRow() { return __nvvm_read_ptx_sreg_tid_y(); }
__device__ inline Word BlockIndex() { return __nvvm_read_ptx_sreg_ctaid_x(); }
__device__ inline Word BlockRow() { return __nvvm_read_ptx_sreg_ctaid_y(); }
__device__ inline Word BlockThreads() { return __nvvm_read_ptx_sreg_ntid_x(); }
__device__ inline Word GridBlocks() { return __nvvm_read_ptx_sreg_nctaid_x(); }
__device__ inline LongWord GlobalIndex() { return LongWord{BlockIndex()} * BlockThreads() + ThreadIndex(); }
__device__ inline LongWord GridThreads() { return LongWord{GridBlocks()} * BlockThreads(); }

__device__ inline void SyncBlock() { __nvvm_bar_sync(0); }
