// A data-parallel training job of three processes on four GPUs: a parent that trains on two, and two children with one
// each. Each rank has a replica of the network and batches of its own; gradients meet in shared memory of the host,
// where every rank adds them up in the same order. All arithmetic is rounded to nearest and every sum has one order, so
// the log depends on the arguments alone: not on time, not on the devices.
//
// The second child sees one GPU only (CUDA_VISIBLE_DEVICES), as launchers of real jobs arrange it. Beside its replica
// each rank has a large buffer on its GPU, which must be at each step as it was left.
//
// usage: ranks [--steps N] [--step-ms N] [--device-mib N] --log FILE
// Log: a line per step, of its number, the bits of the mean loss before it, and a hash of all there was up to then.
// Ends with 0 and "done", or with 1 and a message when a call fails, a byte is not what it was, or replicas differ.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/workloads/gpu.h"

extern const char kTrainerPtx[];

namespace {

constexpr unsigned kBlocks = 64;  // For the buffer.
constexpr unsigned kAnyBlocks = 1u << 20;
constexpr std::uint32_t kRanks = 4;
constexpr std::uint32_t kInputs = 32;
constexpr std::uint32_t kHidden = 64;
constexpr std::uint32_t kOutputs = 8;
constexpr std::uint32_t kBatch = 16;  // Of each rank.
constexpr float kLearningRate = 0.125f;
constexpr float kMomentum = 0.5f;

// Where in the parameters what is: weights and biases of the first layer, then of the second. So in gradients.
constexpr std::uint32_t kFirstBias = kInputs * kHidden;
constexpr std::uint32_t kSecondWeights = kFirstBias + kHidden;
constexpr std::uint32_t kSecondBias = kSecondWeights + kHidden * kOutputs;
constexpr std::uint32_t kParameters = kSecondBias + kOutputs;
static_assert(kParameters % 2 == 0, "checksums are of 64-bit words");

// Shared by all processes. A rank's part is written by it alone, between being told to compute and its answer.
struct Exchange {
  float gradients[kRanks][kParameters];
};

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

struct Options {
  std::uint64_t steps = 100;
  std::uint64_t step_ms = 0;
  std::uint64_t device_mib = 4;
  const char* log = nullptr;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--log") {
      options.log = argv[i + 1];
    } else if (name == "--steps") {
      options.steps = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--step-ms") {
      options.step_ms = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--device-mib") {
      options.device_mib = std::strtoull(argv[i + 1], nullptr, 10);
    } else {
      Die("unknown option " + name);
    }
  }
  if (options.log == nullptr) Die("needs --log");
  return options;
}

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// In [-1, 1), a multiple of 2^-23: of this place in this sequence.
float RandomFloat(std::uint64_t sequence, std::uint64_t place) {
  const std::uint64_t bits = Mix(Mix(sequence) + place * 0x9E3779B97F4A7C15ull) >> 40;
  return static_cast<float>(static_cast<std::int32_t>(bits) - (1 << 23)) / static_cast<float>(1 << 23);
}

// What a rank has computed, for the log.
struct Outcome {
  std::uint64_t loss_bits = 0;  // Of its batch.
  std::uint64_t weights = 0;    // Checksums.
  std::uint64_t buffer = 0;
};

// One GPU: a replica of the network, and a buffer.
class Rank {
 public:
  Rank(std::uint32_t number, int ordinal, std::uint64_t mib, Exchange* exchange)
      : number_(number), gpu_(kTrainerPtx, ordinal), exchange_(exchange), buffer_words_((mib << 20) / 8) {
    for (auto& [pointer, count] : Sizes()) *pointer = gpu_.Allocate(count * 4);
    std::vector<float> initial(kParameters);
    for (std::uint32_t i = 0; i < kParameters; ++i) initial[i] = RandomFloat(/*sequence=*/1, i) * 0.25f;
    std::fill_n(initial.begin() + kFirstBias, kHidden, 0.0f);
    std::fill_n(initial.begin() + kSecondBias, kOutputs, 0.0f);
    gpu_.Write(parameters_, initial.data(), initial.size() * 4);
    gpu_.Zero(velocities_, kParameters * 4);
    sum_ = gpu_.Allocate(8);
    buffer_ = gpu_.Allocate(buffer_words_ * 8);
    gpu_.Launch("fill_pattern", buffer_words_, kBlocks, buffer_, buffer_words_, std::uint64_t{number} + 1);
    buffer_left_ = Checksum(buffer_, buffer_words_);
  }

  // The loss of this step's batch and its gradient, which goes where the others find it.
  void Compute(std::uint64_t step) {
    gpu_.Select();
    const std::uint64_t sequence = Mix(step) ^ number_;
    std::vector<float> inputs(kBatch * kInputs);
    std::vector<float> wanted(kBatch * kOutputs);
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i] = RandomFloat(sequence, i);
    for (std::size_t sample = 0; sample < kBatch; ++sample) {
      const float* const input = &inputs[sample * kInputs];
      for (std::size_t i = 0; i < kOutputs; ++i) wanted[sample * kOutputs + i] = input[i] - input[i + 1] * 0.5f;
    }
    gpu_.Write(inputs_, inputs.data(), inputs.size() * 4);
    gpu_.Write(wanted_, wanted.data(), wanted.size() * 4);
    const std::uint32_t outputs = kBatch * kOutputs;
    gpu_.Launch("dense_forward", kBatch * kHidden, kAnyBlocks, inputs_, parameters_, At(parameters_, kFirstBias),
                hidden_, kBatch, kInputs, kHidden, /*rectify=*/1u);
    gpu_.Launch("dense_forward", outputs, kAnyBlocks, hidden_, At(parameters_, kSecondWeights),
                At(parameters_, kSecondBias), outputs_, kBatch, kHidden, kOutputs, /*rectify=*/0u);
    gpu_.Launch("squared_error", outputs, kAnyBlocks, outputs_, wanted_, output_gradients_, losses_, outputs);
    gpu_.Launch("mean", 1, 1, losses_, loss_, outputs);
    gpu_.Launch("dense_weight_gradient", (kHidden + 1) * kOutputs, kAnyBlocks, hidden_, output_gradients_,
                At(gradients_, kSecondWeights), At(gradients_, kSecondBias), kBatch, kHidden, kOutputs);
    gpu_.Launch("dense_input_gradient", kBatch * kHidden, kAnyBlocks, output_gradients_,
                At(parameters_, kSecondWeights), hidden_, hidden_gradients_, kBatch, kHidden, kOutputs);
    gpu_.Launch("dense_weight_gradient", (kInputs + 1) * kHidden, kAnyBlocks, inputs_, hidden_gradients_, gradients_,
                At(gradients_, kFirstBias), kBatch, kInputs, kHidden);
    gpu_.Read(exchange_->gradients[number_], gradients_, kParameters * 4);
  }

  // REQUIRES: all ranks have computed
  Outcome Update(std::uint64_t step, std::uint64_t salt) {
    gpu_.Select();
    std::vector<float> mean(kParameters);
    for (std::uint32_t i = 0; i < kParameters; ++i) {
      float sum = exchange_->gradients[0][i];
      for (std::uint32_t rank = 1; rank < kRanks; ++rank) sum += exchange_->gradients[rank][i];
      mean[i] = sum * (1.0f / kRanks);
    }
    gpu_.Write(gradients_, mean.data(), mean.size() * 4);
    gpu_.Launch("momentum_update", kParameters, kAnyBlocks, parameters_, velocities_, gradients_, kLearningRate,
                kMomentum, kParameters);
    Outcome outcome;
    float loss = 0;
    gpu_.Read(&loss, loss_, sizeof(loss));
    outcome.loss_bits = std::bit_cast<std::uint32_t>(loss);
    outcome.weights = Checksum(parameters_, kParameters / 2);
    outcome.buffer = VisitBuffer(step, salt);
    return outcome;
  }

 private:
  static Gpu::Pointer At(Gpu::Pointer base, std::uint32_t place) { return base + std::uint64_t{place} * 4; }

  std::vector<std::pair<Gpu::Pointer*, std::size_t>> Sizes() {
    return {{&parameters_, kParameters},
            {&velocities_, kParameters},
            {&gradients_, kParameters},
            {&inputs_, kBatch * kInputs},
            {&hidden_, kBatch * kHidden},
            {&outputs_, kBatch * kOutputs},
            {&wanted_, kBatch * kOutputs},
            {&output_gradients_, kBatch * kOutputs},
            {&hidden_gradients_, kBatch * kHidden},
            {&losses_, kBatch * kOutputs},
            {&loss_, 2}};
  }
  std::uint64_t VisitBuffer(std::uint64_t step, std::uint64_t salt) {
    if (Checksum(buffer_, buffer_words_) != buffer_left_) Die("device memory is not what it was");
    const std::uint64_t from = step % 512, stride = 512;
    gpu_.Launch("mutate_pattern", buffer_words_ / stride, kBlocks, buffer_, buffer_words_, from, stride, salt);
    return buffer_left_ = Checksum(buffer_, buffer_words_);
  }
  std::uint64_t Checksum(Gpu::Pointer words, std::uint64_t count) {
    gpu_.Zero(sum_, 8);
    gpu_.Launch("checksum64", count, kBlocks, words, count, sum_);
    std::uint64_t sum = 0;
    gpu_.Read(&sum, sum_, sizeof(sum));
    return sum;
  }

  std::uint32_t number_;
  Gpu gpu_;
  Exchange* exchange_;
  Gpu::Pointer parameters_ = 0;
  Gpu::Pointer velocities_ = 0;
  Gpu::Pointer gradients_ = 0;
  Gpu::Pointer inputs_ = 0;
  Gpu::Pointer hidden_ = 0;
  Gpu::Pointer outputs_ = 0;
  Gpu::Pointer wanted_ = 0;
  Gpu::Pointer output_gradients_ = 0;
  Gpu::Pointer hidden_gradients_ = 0;
  Gpu::Pointer losses_ = 0;
  Gpu::Pointer loss_ = 0;
  std::uint64_t buffer_words_;
  Gpu::Pointer buffer_ = 0;
  Gpu::Pointer sum_ = 0;
  std::uint64_t buffer_left_ = 0;
};

// False: the other end is closed.
template <class T>
bool ReadAll(int fd, T* value) {
  std::size_t done = 0;
  while (done < sizeof(T)) {
    const ssize_t got = read(fd, reinterpret_cast<char*>(value) + done, sizeof(T) - done);
    if (got == 0 || (got < 0 && errno != EINTR)) return false;
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return true;
}

bool WriteAll(int fd, const void* data, std::size_t bytes) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t put = write(fd, static_cast<const char*>(data) + done, bytes - done);
    if (put < 0 && errno != EINTR) return false;
    if (put > 0) done += static_cast<std::size_t>(put);
  }
  return true;
}

// A rank in a process of its own, which ends when the parent has.
class Child {
 public:
  // Forks. REQUIRES: the driver was not called yet
  Child(std::uint32_t number, int ordinal, const char* visible, std::uint64_t mib, Exchange* exchange) {
    int to[2];
    int from[2];
    if (pipe(to) != 0 || pipe(from) != 0) Die(std::string("pipe: ") + std::strerror(errno));
    pid_ = fork();
    if (pid_ < 0) Die(std::string("fork: ") + std::strerror(errno));
    if (pid_ == 0) {
      close(to[1]);
      close(from[0]);
      if (visible != nullptr) setenv("CUDA_VISIBLE_DEVICES", visible, 1);
      Serve(Rank(number, ordinal, mib, exchange), to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    to_ = to[1];
    from_ = from[0];
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void BeginCompute(std::uint64_t step) { Send({kCompute, step, 0}); }
  void EndCompute() { Receive(); }
  void BeginUpdate(std::uint64_t step, std::uint64_t salt) { Send({kUpdate, step, salt}); }
  Outcome EndUpdate() { return Receive(); }
  void Finish() {
    close(to_);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) Die("a child failed");
  }

 private:
  enum Kind : std::uint64_t { kCompute, kUpdate };
  struct Order {
    std::uint64_t kind = kCompute;
    std::uint64_t step = 0;
    std::uint64_t salt = 0;
  };

  [[noreturn]] static void Serve(Rank rank, int orders, int answers) {
    Order order;
    while (ReadAll(orders, &order)) {
      Outcome outcome;
      if (order.kind == kCompute) {
        rank.Compute(order.step);
      } else {
        outcome = rank.Update(order.step, order.salt);
      }
      if (!WriteAll(answers, &outcome, sizeof(outcome))) _exit(1);
    }
    _exit(0);
  }
  void Send(const Order& order) {
    if (!WriteAll(to_, &order, sizeof(order))) Die("a child is gone");
  }
  Outcome Receive() {
    Outcome outcome;
    if (!ReadAll(from_, &outcome)) Die("a child is gone");
    return outcome;
  }

  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
};

Exchange* ShareMemory() {
  void* const memory = mmap(nullptr, sizeof(Exchange), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die(std::string("mmap: ") + std::strerror(errno));
  return new (memory) Exchange;
}

// One write, so that no line is ever half there.
void AppendLine(int log, std::uint64_t step, float loss, std::uint64_t trace) {
  char line[64];
  const int length = std::snprintf(line, sizeof(line), "%llu %08x %016llx\n", static_cast<unsigned long long>(step),
                                   std::bit_cast<unsigned>(loss), static_cast<unsigned long long>(trace));
  if (!WriteAll(log, line, static_cast<std::size_t>(length))) Die("write the log");
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  Exchange* const exchange = ShareMemory();
  Child third(2, 2, nullptr, options.device_mib, exchange);
  Child fourth(3, 0, "3", options.device_mib, exchange);
  Rank first(0, 0, options.device_mib, exchange);
  Rank second(1, 1, options.device_mib, exchange);
  const int log = open(options.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) Die(std::string("open the log: ") + std::strerror(errno));
  std::uint64_t trace = 1;
  for (std::uint64_t step = 1; step <= options.steps; ++step) {
    third.BeginCompute(step);
    fourth.BeginCompute(step);
    first.Compute(step);
    second.Compute(step);
    third.EndCompute();
    fourth.EndCompute();
    const std::uint64_t salt = Mix(trace ^ step);
    third.BeginUpdate(step, salt);
    fourth.BeginUpdate(step, salt);
    const Outcome outcomes[kRanks] = {first.Update(step, salt), second.Update(step, salt), third.EndUpdate(),
                                      fourth.EndUpdate()};
    float loss = 0;
    for (const Outcome& outcome : outcomes) {
      if (outcome.weights != outcomes[0].weights) Die("the replicas differ in step " + std::to_string(step));
      loss += std::bit_cast<float>(static_cast<std::uint32_t>(outcome.loss_bits));
      for (const std::uint64_t part : {outcome.loss_bits, outcome.weights, outcome.buffer}) trace = Mix(trace ^ part);
    }
    AppendLine(log, step, loss * (1.0f / kRanks), trace);
    if (options.step_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(options.step_ms));
  }
  fourth.Finish();  // First: it holds the other one's pipe open.
  third.Finish();
  std::puts("done");
  return 0;
}
