// A training job: a small network, trained on a GPU through the CUDA driver alone, with state in every place where a
// job may have some. The log of a run depends on its arguments and on nothing else: not on time, not on the device.
//
// State: weights and velocities on the device; a large device buffer and a large host buffer, a part of which is
// checked against what was left there and changed at each step; the order of the samples, and batches under way,
// between a worker thread and the main one; the schedule of the learning rate in a child process; the log, opened once,
// in append mode.
//
// usage: trainer [--steps N] [--step-ms N] [--seed N] [--device-mib N] [--host-mib N] [--log FILE] [--where FILE]
// --where appends the host's name after each step: that, unlike the log, depends on where it ran.
// Ends with 0 and "done", or with 1 and a message when a call fails or a byte is not what it was.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/workloads/gpu.h"

extern const char kTrainerPtx[];

namespace {

constexpr std::uint32_t kInputs = 32;
constexpr std::uint32_t kHidden = 64;
constexpr std::uint32_t kOutputs = 8;
constexpr std::uint32_t kBatch = 64;
constexpr std::uint32_t kSamples = 2048;
constexpr unsigned kAnyBlocks = 1u << 20;
constexpr unsigned kWindowBlocks = 64;                            // For the buffer on the device.
constexpr std::size_t kDeviceWindowBytes = std::size_t{4} << 20;  // Checked and changed per step.
constexpr std::size_t kHostWindowBytes = std::size_t{1} << 20;

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// The same numbers everywhere, which the distributions of the standard library do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(Mix(seed)) {}
  std::uint64_t Next() { return Mix(state_ += 0x9E3779B97F4A7C15ull); }
  std::uint32_t Below(std::uint32_t limit) { return static_cast<std::uint32_t>((Next() >> 32) * limit >> 32); }
  // In [-1, 1), a multiple of 2^-23.
  float Float() {
    return static_cast<float>(static_cast<std::int32_t>(Next() >> 40) - (1 << 23)) / static_cast<float>(1 << 23);
  }

 private:
  std::uint64_t state_;
};

struct Options {
  std::uint64_t steps = 100;
  std::uint64_t step_ms = 0;
  std::uint64_t seed = 1;
  std::uint64_t device_mib = 16;
  std::uint64_t host_mib = 16;
  const char* log = nullptr;
  const char* where = nullptr;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) Die(name + " needs a value");
    char* end = nullptr;
    errno = 0;
    const std::uint64_t value = std::strtoull(argv[i + 1], &end, 10);
    const bool is_number = errno == 0 && end != argv[i + 1] && *end == '\0' && argv[i + 1][0] != '-';
    if (name == "--log" || name == "--where") {
      (name == "--log" ? options.log : options.where) = argv[i + 1];
      continue;
    }
    if (!is_number) Die(name + " needs a number, not '" + argv[i + 1] + "'");
    if (name == "--steps") {
      options.steps = value;
    } else if (name == "--step-ms") {
      options.step_ms = value;
    } else if (name == "--seed") {
      options.seed = value;
    } else if (name == "--device-mib") {
      options.device_mib = value;
    } else if (name == "--host-mib") {
      options.host_mib = value;
    } else {
      Die("unknown option " + name);
    }
  }
  return options;
}

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

// --- The child process, which knows the schedule of the learning rate and all losses so far.

class Scheduler {
 public:
  struct Answer {
    float learning_rate = 0;
    std::uint32_t steps = 0;  // Answered so far.
    std::uint64_t history = 0;
  };

  // Forks. REQUIRES: the process has one thread and has not called the driver
  Scheduler() {
    int requests[2];
    int answers[2];
    if (pipe(requests) != 0 || pipe(answers) != 0) Die(std::string("pipe: ") + std::strerror(errno));
    child_ = fork();
    if (child_ < 0) Die(std::string("fork: ") + std::strerror(errno));
    if (child_ == 0) {
      close(requests[1]);
      close(answers[0]);
      Serve(requests[0], answers[1]);
    }
    close(requests[0]);
    close(answers[1]);
    requests_ = requests[1];
    answers_ = answers[0];
  }
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  Answer Ask(std::uint64_t trace) {
    Answer answer;
    if (!WriteAll(requests_, &trace, sizeof(trace)) || !ReadAll(answers_, &answer)) Die("the child process is gone");
    return answer;
  }

  void Finish() {
    close(requests_);
    int status = 0;
    while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) Die("the child process failed");
  }

 private:
  [[noreturn]] static void Serve(int requests, int answers) {
    Answer answer{0.05f, 0, 0};
    std::uint64_t trace = 0;
    while (ReadAll(requests, &trace)) {
      answer.history = Mix(answer.history ^ trace);
      if (++answer.steps % 256 == 0 && answer.learning_rate > 0.001f) answer.learning_rate *= 0.75f;
      if (!WriteAll(answers, &answer, sizeof(answer))) _exit(1);
    }
    _exit(0);
  }

  pid_t child_ = -1;
  int requests_ = -1;
  int answers_ = -1;
};

// --- The worker thread, which prepares batches ahead of their use.

struct Batch {
  std::vector<float> inputs;
  std::vector<float> wanted;
};

class Loader {
 public:
  explicit Loader(std::uint64_t seed)
      : random_(seed), samples_(std::size_t{kSamples} * kInputs), labels_(std::size_t{kSamples} * kOutputs) {
    for (float& value : samples_) value = random_.Float();
    // What is to be learnt: products of neighbouring inputs.
    for (std::size_t sample = 0; sample < kSamples; ++sample) {
      for (std::size_t i = 0; i < kOutputs; ++i)
        labels_[sample * kOutputs + i] = samples_[sample * kInputs + i] * samples_[sample * kInputs + i + 1];
    }
    for (std::uint32_t i = 0; i < kSamples; ++i) order_.push_back(i);
    worker_ = std::thread([this] { Work(); });
  }
  ~Loader() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  Batch Next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ready_.empty(); });
    Batch batch = std::move(ready_.front());
    ready_.pop_front();
    changed_.notify_all();
    return batch;
  }

 private:
  static constexpr std::size_t kAhead = 3;

  void Work() {
    while (true) {
      Batch batch = Make();
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || ready_.size() < kAhead; });
      if (stopping_) return;
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  }

  Batch Make() {
    Batch batch;
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      if (position_ == 0) {
        for (std::uint32_t k = kSamples - 1; k > 0; --k) std::swap(order_[k], order_[random_.Below(k + 1)]);
      }
      const std::size_t sample = order_[position_];
      position_ = (position_ + 1) % kSamples;
      batch.inputs.insert(batch.inputs.end(), samples_.begin() + static_cast<std::ptrdiff_t>(sample * kInputs),
                          samples_.begin() + static_cast<std::ptrdiff_t>((sample + 1) * kInputs));
      batch.wanted.insert(batch.wanted.end(), labels_.begin() + static_cast<std::ptrdiff_t>(sample * kOutputs),
                          labels_.begin() + static_cast<std::ptrdiff_t>((sample + 1) * kOutputs));
    }
    return batch;
  }

  Random random_;  // This, order_ and position_: of the worker, once it runs.
  std::vector<float> samples_;
  std::vector<float> labels_;
  std::vector<std::uint32_t> order_;
  std::uint32_t position_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;  // Guarded by mutex_, as is stopping_.
  bool stopping_ = false;
  std::thread worker_;
};

// --- The network.

class Network {
 public:
  Network(Gpu* gpu, std::uint64_t seed)
      : gpu_(gpu), first_(gpu, kInputs, kHidden, seed), second_(gpu, kHidden, kOutputs, seed + 1) {
    input_ = gpu->Allocate(kBatch * kInputs * 4);
    wanted_ = gpu->Allocate(kBatch * kOutputs * 4);
    hidden_ = gpu->Allocate(kBatch * kHidden * 4);
    output_ = gpu->Allocate(kBatch * kOutputs * 4);
    output_gradient_ = gpu->Allocate(kBatch * kOutputs * 4);
    hidden_gradient_ = gpu->Allocate(kBatch * kHidden * 4);
    losses_ = gpu->Allocate(kBatch * kOutputs * 4);
    loss_ = gpu->Allocate(8);
  }

  // Returns the loss before the step.
  float Step(const Batch& batch, float learning_rate) {
    gpu_->Write(input_, batch.inputs.data(), batch.inputs.size() * 4);
    gpu_->Write(wanted_, batch.wanted.data(), batch.wanted.size() * 4);
    Forward(first_, input_, hidden_, 1);
    Forward(second_, hidden_, output_, 0);
    const std::uint32_t count = kBatch * kOutputs;
    gpu_->Launch("squared_error", count, kAnyBlocks, output_, wanted_, output_gradient_, losses_, count);
    gpu_->Launch("mean", 1, 1, losses_, loss_, count);
    Backward(second_, hidden_, output_gradient_);
    gpu_->Launch("dense_input_gradient", kBatch * kHidden, kAnyBlocks, output_gradient_, second_.weights, hidden_,
                 hidden_gradient_, kBatch, kHidden, kOutputs);
    Backward(first_, input_, hidden_gradient_);
    Update(first_, learning_rate);
    Update(second_, learning_rate);
    float loss = 0;
    gpu_->Read(&loss, loss_, sizeof(loss));
    return loss;
  }

  // Where the weights are, for a checksum of 64-bit words.
  Gpu::Pointer weights() const { return first_.weights; }
  static constexpr std::uint64_t kWeightWords = kInputs * kHidden / 2;

 private:
  struct Layer {
    Layer(Gpu* gpu, std::uint32_t input_count, std::uint32_t output_count, std::uint64_t seed)
        : inputs(input_count), outputs(output_count) {
      Random random(seed);
      std::vector<float> values(inputs * outputs);
      for (float& value : values) value = random.Float() * 0.25f;
      weights = gpu->Allocate(inputs * outputs * 4);
      gpu->Write(weights, values.data(), values.size() * 4);
      gpu->Wait();  // For `values`.
      for (Gpu::Pointer* zeroed : {&weight_velocity, &weight_gradient}) {
        *zeroed = gpu->Allocate(inputs * outputs * 4);
        gpu->Zero(*zeroed, inputs * outputs * 4);
      }
      for (Gpu::Pointer* zeroed : {&bias, &bias_velocity, &bias_gradient}) {
        *zeroed = gpu->Allocate(outputs * 4);
        gpu->Zero(*zeroed, outputs * 4);
      }
    }
    std::uint32_t inputs;
    std::uint32_t outputs;
    Gpu::Pointer weights = 0;
    Gpu::Pointer weight_velocity = 0;
    Gpu::Pointer weight_gradient = 0;
    Gpu::Pointer bias = 0;
    Gpu::Pointer bias_velocity = 0;
    Gpu::Pointer bias_gradient = 0;
  };

  void Forward(const Layer& layer, Gpu::Pointer input, Gpu::Pointer output, std::uint32_t rectify) {
    gpu_->Launch("dense_forward", kBatch * layer.outputs, kAnyBlocks, input, layer.weights, layer.bias, output, kBatch,
                 layer.inputs, layer.outputs, rectify);
  }
  void Backward(const Layer& layer, Gpu::Pointer input, Gpu::Pointer gradient) {
    gpu_->Launch("dense_weight_gradient", (layer.inputs + 1) * layer.outputs, kAnyBlocks, input, gradient,
                 layer.weight_gradient, layer.bias_gradient, kBatch, layer.inputs, layer.outputs);
  }
  void Update(const Layer& layer, float learning_rate) {
    const std::uint32_t weight_count = layer.inputs * layer.outputs;
    gpu_->Launch("momentum_update", weight_count, kAnyBlocks, layer.weights, layer.weight_velocity,
                 layer.weight_gradient, learning_rate, 0.9f, weight_count);
    gpu_->Launch("momentum_update", layer.outputs, kAnyBlocks, layer.bias, layer.bias_velocity, layer.bias_gradient,
                 learning_rate, 0.9f, layer.outputs);
  }

  Gpu* gpu_;
  Layer first_;
  Layer second_;
  Gpu::Pointer input_ = 0;
  Gpu::Pointer wanted_ = 0;
  Gpu::Pointer hidden_ = 0;
  Gpu::Pointer output_ = 0;
  Gpu::Pointer output_gradient_ = 0;
  Gpu::Pointer hidden_gradient_ = 0;
  Gpu::Pointer losses_ = 0;
  Gpu::Pointer loss_ = 0;
};

// --- Large buffers. Each step visits one window: it must be as it was left, and is changed.

class DeviceBuffer {
 public:
  DeviceBuffer(Gpu* gpu, std::uint64_t mib, std::uint64_t seed) : gpu_(gpu), seed_(seed) {
    sum_ = gpu->Allocate(8);
    words_ = (mib << 20) / 8;
    if (words_ == 0) return;
    buffer_ = gpu->Allocate(words_ * 8);
    gpu->Launch("fill_pattern", words_, kWindowBlocks, buffer_, words_, seed);
    for (std::uint64_t first = 0; first < words_; first += kWindowWords)
      left_.push_back(Checksum(buffer_ + first * 8, WindowWords(first)));
  }

  std::uint64_t Visit(std::uint64_t step) {
    if (left_.empty()) return 0;
    const std::size_t window = step % left_.size();
    const std::uint64_t first = window * kWindowWords;
    const std::uint64_t count = WindowWords(first);
    const Gpu::Pointer address = buffer_ + first * 8;
    if (Checksum(address, count) != left_[window])
      Die("device memory is not what it was: window " + std::to_string(window));
    // One word in each 64 KiB: the pages between stay as they are.
    const std::uint64_t from = step % 8192, stride = 8192, salt = Mix(seed_ ^ step);
    gpu_->Launch("mutate_pattern", (count + stride - 1) / stride, kWindowBlocks, address, count, from, stride, salt);
    return left_[window] = Checksum(address, count);
  }

  std::uint64_t Checksum(Gpu::Pointer words, std::uint64_t count) {
    gpu_->Zero(sum_, 8);
    gpu_->Launch("checksum64", count, kWindowBlocks, words, count, sum_);
    std::uint64_t sum = 0;
    gpu_->Read(&sum, sum_, sizeof(sum));
    return sum;
  }

 private:
  static constexpr std::uint64_t kWindowWords = kDeviceWindowBytes / 8;
  std::uint64_t WindowWords(std::uint64_t first) const { return std::min(kWindowWords, words_ - first); }

  Gpu* gpu_;
  std::uint64_t seed_;
  std::uint64_t words_ = 0;
  Gpu::Pointer buffer_ = 0;
  Gpu::Pointer sum_ = 0;
  std::vector<std::uint64_t> left_;  // Of each window.
};

class HostBuffer {
 public:
  HostBuffer(std::uint64_t mib, std::uint64_t seed) : seed_(seed), words_((mib << 20) / 8) {
    Random random(seed);
    for (std::uint64_t& word : words_) word = random.Next();
    for (std::size_t first = 0; first < words_.size(); first += kWindowWords) left_.push_back(Hash(first));
  }

  std::uint64_t Visit(std::uint64_t step) {
    if (left_.empty()) return 0;
    const std::size_t window = step % left_.size();
    const std::size_t first = window * kWindowWords;
    if (Hash(first) != left_[window]) Die("host memory is not what it was: window " + std::to_string(window));
    for (std::size_t i = first + step % 8192; i < std::min(first + kWindowWords, words_.size()); i += 8192)
      words_[i] = Mix(words_[i] ^ seed_ ^ step);
    return left_[window] = Hash(first);
  }

 private:
  static constexpr std::size_t kWindowWords = kHostWindowBytes / 8;

  std::uint64_t Hash(std::size_t first) const {
    std::uint64_t hash = first;
    for (std::size_t i = first; i < std::min(first + kWindowWords, words_.size()); ++i)
      hash = (hash ^ words_[i]) * 0x9E3779B97F4A7C15ull + (hash >> 29);
    return Mix(hash);
  }

  std::uint64_t seed_;
  std::vector<std::uint64_t> words_;
  std::vector<std::uint64_t> left_;
};

// One write per line, so that no line is ever half there.
void AppendLine(int log, std::uint64_t step, float loss, std::uint64_t trace) {
  if (log < 0) return;
  char line[64];
  const int length = std::snprintf(line, sizeof(line), "%llu %08x %016llx\n", static_cast<unsigned long long>(step),
                                   std::bit_cast<unsigned>(loss), static_cast<unsigned long long>(trace));
  if (!WriteAll(log, line, static_cast<std::size_t>(length)))
    Die(std::string("write the log: ") + std::strerror(errno));
}

int OpenForAppend(const char* path) {
  if (path == nullptr) return -1;
  const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) Die(std::string("open ") + path + ": " + std::strerror(errno));
  return fd;
}

void AppendHostName(int where) {
  char name[256] = {};
  if (where < 0 || gethostname(name, sizeof(name) - 2) != 0) return;
  std::strcat(name, "\n");
  if (!WriteAll(where, name, std::strlen(name))) Die(std::string("write where it ran: ") + std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  Scheduler scheduler;
  const int log = OpenForAppend(options.log);
  const int where = OpenForAppend(options.where);
  Gpu gpu(kTrainerPtx);
  Loader loader(options.seed);
  Network network(&gpu, options.seed);
  DeviceBuffer device_buffer(&gpu, options.device_mib, options.seed);
  HostBuffer host_buffer(options.host_mib, options.seed);
  std::uint64_t trace = Mix(options.seed);
  for (std::uint64_t step = 1; step <= options.steps; ++step) {
    const Scheduler::Answer answer = scheduler.Ask(trace);
    if (answer.steps != static_cast<std::uint32_t>(step))
      Die("the child process has counted " + std::to_string(answer.steps) + " steps, not " + std::to_string(step));
    const float loss = network.Step(loader.Next(), answer.learning_rate);
    for (const std::uint64_t part : {std::uint64_t{std::bit_cast<std::uint32_t>(loss)},
                                     device_buffer.Checksum(network.weights(), Network::kWeightWords),
                                     device_buffer.Visit(step), host_buffer.Visit(step), answer.history}) {
      trace = Mix(trace ^ part);
    }
    AppendLine(log, step, loss, trace);
    AppendHostName(where);
    if (options.step_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(options.step_ms));
  }
  scheduler.Finish();
  std::puts("done");
  return 0;
}
