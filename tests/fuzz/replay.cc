// Runs a fuzzer's seeds, and changed copies of them, without libFuzzer: as a test, whatever the compiler.
//
// usage: NAME_replay [--mutations N] FILE-OR-DIRECTORY...
//
// N changed copies of each seed, the same ones every time. If one does harm, what it was is left in the file
// ./NAME_replay.finding, which can be given as a seed.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Of the sanitizers, where there are any: they end the process by other ways than abort().
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

namespace fs = std::filesystem;
using Input = std::vector<std::uint8_t>;

constexpr std::size_t kMaxInputBytes = std::size_t{1} << 16;

// What the signal handler saves.
struct Running {
  const std::uint8_t* data = nullptr;
  std::size_t bytes = 0;
  std::array<char, 256> path{};
};
Running running;  // NOLINT: a signal handler can be handed nothing.

void SaveFinding() {
  const int fd = open(running.path.data(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  for (std::size_t done = 0; done < running.bytes;) {
    const ssize_t count = write(fd, running.data + done, running.bytes - done);
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  close(fd);
  constexpr std::string_view kWord = "replay: the input that did it is in ./";
  const std::string_view path(running.path.data());
  [[maybe_unused]] ssize_t told = write(STDERR_FILENO, kWord.data(), kWord.size());
  told = write(STDERR_FILENO, path.data(), path.size());
  told = write(STDERR_FILENO, "\n", 1);
}

void OnSignal(int number) {
  SaveFinding();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void RunOne(const Input& input) {
  // A copy of just its size, so that sanitizers see what is read behind it.
  const Input exact(input.begin(), input.end());
  running.data = exact.data();
  running.bytes = exact.size();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  running.data = nullptr;
  running.bytes = 0;
}

// As std::uniform_int_distribution, which may differ between libraries.
std::size_t Below(std::mt19937_64& random, std::size_t limit) { return limit == 0 ? 0 : random() % limit; }

void ChangeOnce(Input& input, const Input& other, std::mt19937_64& random) {
  constexpr std::array<std::uint8_t, 12> kOdd = {0, 1, 2, 0x7f, 0x80, 0xff, '0', '9', '-', '%', ';', '{'};
  const std::size_t at = Below(random, input.size());
  const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
  const std::size_t length = 1 + Below(random, std::min<std::size_t>(64, input.size() - at));
  switch (random() % 6) {
    case 0:
      if (!input.empty()) input[at] = static_cast<std::uint8_t>(input[at] ^ (1U << random() % 8));
      break;
    case 1:
      if (!input.empty()) input[at] = kOdd[random() % kOdd.size()];
      break;
    case 2:
      if (!input.empty()) input.erase(place, place + static_cast<std::ptrdiff_t>(std::min(length, input.size() - at)));
      break;
    case 3:
      input.insert(place, static_cast<std::uint8_t>(random()));
      break;
    case 4:
    case 5: {  // A piece of another seed, or of this one, in between or over what is there.
      const Input& from = random() % 2 == 0 ? other : input;
      const std::size_t begin = Below(random, from.size());
      const std::size_t count = std::min(length, from.size() - begin);
      const Input piece(from.begin() + static_cast<std::ptrdiff_t>(begin),
                        from.begin() + static_cast<std::ptrdiff_t>(begin + count));
      if (random() % 2 == 0) {
        input.insert(place, piece.begin(), piece.end());
      } else {
        std::copy_n(piece.begin(), std::min(count, input.size() - at), place);
      }
      break;
    }
    default:
      break;
  }
  if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
}

std::vector<Input> ReadSeeds(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    if (!fs::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::ranges::sort(files);
  std::vector<Input> seeds;
  for (const fs::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "replay: error: cannot read %s\n", file.c_str());
      std::exit(2);
    }
    seeds.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return seeds;
}

int Replay(std::size_t mutations, const std::vector<std::string>& paths) {
  const std::vector<Input> seeds = ReadSeeds(paths);
  if (seeds.empty()) {
    std::fputs("replay: error: there are no seeds\n", stderr);
    return 2;
  }
  RunOne({});
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    RunOne(seeds[i]);
    std::mt19937_64 random(i + 1);
    for (std::size_t n = 0; n < mutations; ++n) {
      Input input = seeds[i];
      const Input& other = seeds[Below(random, seeds.size())];
      for (std::size_t changes = 1 + random() % 6; changes > 0; --changes) ChangeOnce(input, other, random);
      RunOne(input);
    }
  }
  std::printf("replay: %zu seeds, %zu changed copies of each\n", seeds.size(), mutations);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::snprintf(running.path.data(), running.path.size(), "%s.finding", fs::path(argv[0]).filename().c_str());
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, &OnSignal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(&SaveFinding);
  std::size_t mutations = 0;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--mutations" && i + 1 < argc) {
      mutations = std::strtoull(argv[++i], nullptr, 10);
    } else {
      paths.emplace_back(argv[i]);
    }
  }
  return Replay(mutations, paths);
}
