// The kernels of the training job: a network of one hidden layer, trained by SGD with momentum.
//
// All arithmetic is rounded to nearest, every sum has one order and no float is added atomically, so a step has one
// result on every device. Matrices are row-major. One thread computes one element, unless said otherwise.

#include "cuda_dialect.h"

// output[row, column] = bias[column] + the sum over k of input[row, k] * weights[k, column]; if `rectify`, at least 0.
extern "C" __global__ void dense_forward(const float* input, const float* weights, const float* bias, float* output,
                                         Word rows, Word inner, Word columns, Word rectify) {
  const LongWord element = GlobalIndex();
  if (element >= LongWord{rows} * columns) return;
  const Word row = static_cast<Word>(element / columns);
  const Word column = static_cast<Word>(element % columns);
  float sum = bias[column];
  for (Word k = 0; k < inner; ++k) sum = __builtin_fmaf(input[row * inner + k], weights[k * columns + column], sum);
  output[element] = rectify != 0 && !(sum > 0.0f) ? 0.0f : sum;
}

// Of the mean of the squares: gradient = 2 (output - wanted) / count, loss = (output - wanted)^2.
extern "C" __global__ void squared_error(const float* output, const float* wanted, float* gradient, float* loss,
                                         Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  const float difference = output[i] - wanted[i];
  gradient[i] = 2.0f * difference / static_cast<float>(count);
  loss[i] = difference * difference;
}

// One block of 256 threads: *sum = the sum of `values`, divided by `count`.
extern "C" __global__ void mean(const float* values, float* result, Word count) {
  __shared__ float partial[256];
  const Word thread = ThreadIndex();
  float sum = 0.0f;
  for (Word i = thread; i < count; i += 256) sum += values[i];
  partial[thread] = sum;
  SyncBlock();
  for (Word half = 128; half > 0; half /= 2) {
    if (thread < half) partial[thread] += partial[thread + half];
    SyncBlock();
  }
  if (thread == 0) *result = partial[0] / static_cast<float>(count);
}

// gradient of weights[k, column] = the sum over rows of input[row, k] * gradient[row, column]; k == inner: of the bias.
extern "C" __global__ void dense_weight_gradient(const float* input, const float* gradient, float* weight_gradient,
                                                 float* bias_gradient, Word rows, Word inner, Word columns) {
  const LongWord element = GlobalIndex();
  if (element >= LongWord{inner + 1} * columns) return;
  const Word k = static_cast<Word>(element / columns);
  const Word column = static_cast<Word>(element % columns);
  float sum = 0.0f;
  for (Word row = 0; row < rows; ++row) {
    const float factor = k == inner ? 1.0f : input[row * inner + k];
    sum = __builtin_fmaf(factor, gradient[row * columns + column], sum);
  }
  (k == inner ? bias_gradient[column] : weight_gradient[element]) = sum;
}

// input_gradient[row, k] = the sum over columns of gradient[row, column] * weights[k, column], where the layer before
// gave more than 0.
extern "C" __global__ void dense_input_gradient(const float* gradient, const float* weights, const float* activation,
                                                float* input_gradient, Word rows, Word inner, Word columns) {
  const LongWord element = GlobalIndex();
  if (element >= LongWord{rows} * inner) return;
  const Word row = static_cast<Word>(element / inner);
  const Word k = static_cast<Word>(element % inner);
  float sum = 0.0f;
  for (Word column = 0; column < columns; ++column)
    sum = __builtin_fmaf(gradient[row * columns + column], weights[k * columns + column], sum);
  input_gradient[element] = activation[element] > 0.0f ? sum : 0.0f;
}

extern "C" __global__ void momentum_update(float* weights, float* velocity, const float* gradient, float learning_rate,
                                           float momentum, Word count) {
  const LongWord i = GlobalIndex();
  if (i >= count) return;
  const float speed = __builtin_fmaf(momentum, velocity[i], gradient[i]);
  velocity[i] = speed;
  weights[i] = __builtin_fmaf(-learning_rate, speed, weights[i]);
}

// --- A large buffer that the job owns, and knows the contents of.

__device__ inline LongWord Mix(LongWord x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// words[i] = a hash of seed and i. Any grid.
extern "C" __global__ void fill_pattern(LongWord* words, LongWord count, LongWord seed) {
  for (LongWord i = GlobalIndex(); i < count; i += GridThreads()) words[i] = Mix(seed + i * 0x9E3779B97F4A7C15ull);
}

// Changes each `stride`-th word, from `first` on. Any grid.
extern "C" __global__ void mutate_pattern(LongWord* words, LongWord count, LongWord first, LongWord stride,
                                          LongWord seed) {
  for (LongWord i = first + GlobalIndex() * stride; i < count; i += GridThreads() * stride)
    words[i] = Mix(words[i] ^ seed) + i;
}

// Adds to *sum a hash of each word and its place; the order of a sum of integers does not matter. Any grid of blocks of
// at most 256 threads, of a power of two.
extern "C" __global__ void checksum64(const LongWord* words, LongWord count, LongWord* sum) {
  __shared__ LongWord partial[256];
  const Word thread = ThreadIndex();
  LongWord own = 0;
  for (LongWord i = GlobalIndex(); i < count; i += GridThreads()) own += Mix(words[i] ^ Mix(i + 1));
  partial[thread] = own;
  SyncBlock();
  for (Word half = BlockThreads() / 2; half > 0; half /= 2) {
    if (thread < half) partial[thread] += partial[thread + half];
    SyncBlock();
  }
  if (thread == 0) __nvvm_atom_add_gen_ll(reinterpret_cast<long long*>(sum), static_cast<long long>(partial[0]));
}
