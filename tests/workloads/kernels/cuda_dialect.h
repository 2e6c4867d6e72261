// The part of CUDA C++ that the kernels here use, for clang without a CUDA toolkit.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))

using Word = unsigned int;
using LongWord = unsigned long long;

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
