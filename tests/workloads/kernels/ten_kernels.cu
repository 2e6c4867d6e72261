// Ten kernels of the kinds that training jobs are made of, as a test of the software GPU and to measure it by.

#include "cuda_dialect.h"

__device__ inline float Exp2(float x) { return __nvvm_ex2_approx_f(x); }
__device__ inline float Exp(float x) { return Exp2(x * 1.4426950408889634f); }
__device__ inline float Log(float x) { return __nvvm_lg2_approx_f(x) * 0.6931471805599453f; }
__device__ inline float SquareRoot(float x) { return __nvvm_sqrt_rn_f(x); }

extern "C" __global__ void saxpy(float a, const float* x, float* y, Word count) {
  const LongWord i = GlobalIndex();
  if (i < count) y[i] = __builtin_fmaf(a, x[i], y[i]);
}

// One sum per block of 256 threads: within warps by shuffles, between them in shared memory.
extern "C" __global__ void reduce_sum(const float* values, float* sums, Word count) {
  __shared__ float of_warp[8];
  const LongWord i = GlobalIndex();
  const Word thread = ThreadIndex();
  float sum = i < count ? values[i] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __builtin_bit_cast(float, __nvvm_shfl_sync_down_i32(0xFFFFFFFF, __builtin_bit_cast(int, sum), offset, 31));
  }
  if (thread % 32 == 0) of_warp[thread / 32] = sum;
  SyncBlock();
  if (thread == 0) {
    float total = 0.0f;
    for (int warp = 0; warp < 8; ++warp) total += of_warp[warp];
    sums[BlockIndex()] = total;
  }
}

// A hash of each run of 64 words, in the manner of XXH64.
extern "C" __global__ void hash64(const LongWord* words, LongWord* hashes, Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  const LongWord* const run = words + i * 64;
  LongWord lanes[4] = {0x60EA27EEADC0B5D6ull, 0xC2B2AE3D27D4EB4Full, 0, 0x61C8864E7A143579ull};
  for (int k = 0; k < 64; k += 4) {
    for (int lane = 0; lane < 4; ++lane) {
      const LongWord value = lanes[lane] + run[k + lane] * 0xC2B2AE3D27D4EB4Full;
      lanes[lane] = ((value << 31) | (value >> 33)) * 0x9E3779B185EBCA87ull;
    }
  }
  LongWord hash = 512;
  for (int lane = 0; lane < 4; ++lane) hash = (hash ^ lanes[lane]) * 0x9E3779B185EBCA87ull + 0x85EBCA77C2B2AE63ull;
  hash ^= hash >> 33;
  hash *= 0xC2B2AE3D27D4EB4Full;
  hashes[i] = hash ^ (hash >> 29);
}

// c = a b, all of them size x size, by tiles of 16 x 16. REQUIRES: size is a multiple of 16
extern "C" __global__ void matmul(const float* a, const float* b, float* c, Word size) {
  __shared__ float a_tile[16][16];
  __shared__ float b_tile[16][16];
  const Word row = BlockRow() * 16 + ThreadRow();
  const Word column = BlockIndex() * 16 + ThreadIndex();
  float sum = 0.0f;
  for (Word tile = 0; tile < size; tile += 16) {
    a_tile[ThreadRow()][ThreadIndex()] = a[row * size + tile + ThreadIndex()];
    b_tile[ThreadRow()][ThreadIndex()] = b[(tile + ThreadRow()) * size + column];
    SyncBlock();
    for (int k = 0; k < 16; ++k) sum = __builtin_fmaf(a_tile[ThreadRow()][k], b_tile[k][ThreadIndex()], sum);
    SyncBlock();
  }
  c[row * size + column] = sum;
}

extern "C" __global__ void sgd_momentum(float* weights, float* velocity, const float* gradient, float rate,
                                        float momentum, Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  const float speed = momentum * velocity[i] + gradient[i];
  velocity[i] = speed;
  weights[i] -= rate * speed;
}

extern "C" __global__ void adam(float* weights, float* first, float* second, const float* gradient, float rate,
                                float first_correction, float second_correction, Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  const float g = gradient[i];
  const float m = 0.9f * first[i] + 0.1f * g;
  const float v = 0.999f * second[i] + 0.001f * g * g;
  first[i] = m;
  second[i] = v;
  weights[i] -= rate * (m / first_correction) / (SquareRoot(v / second_correction) + 1e-8f);
}

extern "C" __global__ void relu_backward(const float* activation, const float* gradient, float* result, Word count) {
  const LongWord i = GlobalIndex();
  if (i < count) result[i] = activation[i] > 0.0f ? gradient[i] : 0.0f;
}

// One thread per row: the loss, and its gradient by the logits.
extern "C" __global__ void softmax_cross_entropy(const float* logits, const Word* labels, float* losses,
                                                 float* gradients, Word rows, Word classes) {
  const LongWord row = GlobalIndex();
  if (row >= rows) return;
  const float* const own = logits + row * classes;
  float largest = own[0];
  for (Word k = 1; k < classes; ++k) largest = own[k] > largest ? own[k] : largest;
  float sum = 0.0f;
  for (Word k = 0; k < classes; ++k) sum += Exp(own[k] - largest);
  losses[row] = Log(sum) + largest - own[labels[row]];
  for (Word k = 0; k < classes; ++k)
    gradients[row * classes + k] = Exp(own[k] - largest) / sum - (k == labels[row] ? 1.0f : 0.0f);
}

// Philox 4x32-10 of counter i and `key`: four words each.
extern "C" __global__ void philox(Word* words, LongWord key, Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  Word c[4] = {static_cast<Word>(i), static_cast<Word>(i >> 32), 0, 0};
  Word k[2] = {static_cast<Word>(key), static_cast<Word>(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    const LongWord first = LongWord{c[0]} * 0xD2511F53u;
    const LongWord second = LongWord{c[2]} * 0xCD9E8D57u;
    c[0] = static_cast<Word>(second >> 32) ^ c[1] ^ k[0];
    c[1] = static_cast<Word>(second);
    c[2] = static_cast<Word>(first >> 32) ^ c[3] ^ k[1];
    c[3] = static_cast<Word>(first);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  for (int word = 0; word < 4; ++word) words[i * 4 + word] = c[word];
}

// How often each byte value occurs; `counts` has 256 words. Contended atomics in shared memory, then global.
extern "C" __global__ void histogram(const unsigned char* bytes, Word* counts, Word count) {
  __shared__ int own[256];
  for (Word i = ThreadIndex(); i < 256; i += BlockThreads()) own[i] = 0;
  SyncBlock();
  for (LongWord i = GlobalIndex(); i < count; i += GridThreads()) __nvvm_atom_add_gen_i(&own[bytes[i]], 1);
  SyncBlock();
  for (Word i = ThreadIndex(); i < 256; i += BlockThreads())
    __nvvm_atom_add_gen_i(reinterpret_cast<int*>(&counts[i]), own[i]);
}
