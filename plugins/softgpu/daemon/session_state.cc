#include "plugins/softgpu/daemon/session_state.h"

#include <cstring>
#include <string_view>
#include <type_traits>

namespace softgpu {

namespace {

class Writer {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T>
  void operator()(const T& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof(value));
  }
  void operator()(const std::string& text) {
    (*this)(static_cast<std::uint32_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), bytes, bytes + text.size());
  }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
    requires std::is_arithmetic_v<T>
  void operator()(T& value) {
    if (bytes_.size() < sizeof(value)) {
      failed_ = true;
      bytes_ = {};
      return;
    }
    std::memcpy(&value, bytes_.data(), sizeof(value));
    bytes_ = bytes_.subspan(sizeof(value));
  }
  // Any byte but 0 and 1 in a bool is undefined behaviour.
  void operator()(bool& value) {
    std::uint8_t byte = 0;
    (*this)(byte);
    value = byte != 0;
  }
  void operator()(std::string& text) {
    std::uint32_t size = 0;
    (*this)(size);
    if (size > bytes_.size()) {
      failed_ = true;
      return;
    }
    text.assign(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(size);
  }
  std::size_t left() const { return bytes_.size(); }
  bool failed() const { return failed_; }
  void Fail() { failed_ = true; }

 private:
  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

// One list of fields per type, for both directions.
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.retain_count; }
{
  archive(item.id), archive(item.ordinal), archive(item.flags), archive(item.is_primary), archive(item.retain_count),
      archive(item.error);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.priority; }
{
  archive(item.id), archive(item.context), archive(item.flags), archive(item.priority);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.is_recorded; }
{
  archive(item.id), archive(item.context), archive(item.flags), archive(item.is_recorded), archive(item.recorded_at_ns);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.variables_base; }
{
  archive(item.id), archive(item.context), archive(item.variables_base), archive(item.text);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.max_dynamic_shared_bytes; }
{
  archive(item.id), archive(item.module), archive(item.max_dynamic_shared_bytes), archive(item.name);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.is_module; }
{
  archive(item.base), archive(item.bytes), archive(item.context), archive(item.is_module), archive(item.is_physical);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.reserved_bytes; }
{
  archive(item.base), archive(item.reserved_bytes);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.handle_types; }
{
  archive(item.id), archive(item.place), archive(item.bytes), archive(item.handle_count), archive(item.ordinal),
      archive(item.handle_types), archive(item.compression), archive(item.is_rdma_capable), archive(item.usage);
}
template <typename Archive, typename Item>
void Fields(Archive& archive, Item& item)
  requires requires { item.access_bits; }
{
  archive(item.base), archive(item.bytes), archive(item.physical), archive(item.offset), archive(item.access_bits);
}

template <typename Item>
void SaveList(Writer& writer, const std::vector<Item>& items) {
  writer(static_cast<std::uint32_t>(items.size()));
  for (const Item& item : items) Fields(writer, item);
}

template <typename Item>
void LoadList(Reader& reader, std::vector<Item>& items) {
  std::uint32_t count = 0;
  reader(count);
  // Every item takes eight bytes at least, so memory stays within a small multiple of what was sent.
  if (count > reader.left() / sizeof(std::uint64_t)) return reader.Fail();
  for (std::uint32_t i = 0; i < count && !reader.failed(); ++i) Fields(reader, items.emplace_back());
}

}  // namespace

std::vector<std::byte> SaveState(const SessionState& state) {
  Writer writer;
  writer(kStateVersion);
  writer(state.next_id);
  writer(state.now_ns);
  SaveList(writer, state.contexts);
  SaveList(writer, state.streams);
  SaveList(writer, state.events);
  SaveList(writer, state.modules);
  SaveList(writer, state.functions);
  SaveList(writer, state.allocations);
  SaveList(writer, state.reservations);
  SaveList(writer, state.physicals);
  SaveList(writer, state.mappings);
  return writer.Take();
}

std::optional<SessionState> LoadState(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  std::uint32_t version = 0;
  reader(version);
  if (version != kStateVersion) return std::nullopt;
  SessionState state;
  reader(state.next_id);
  reader(state.now_ns);
  LoadList(reader, state.contexts);
  LoadList(reader, state.streams);
  LoadList(reader, state.events);
  LoadList(reader, state.modules);
  LoadList(reader, state.functions);
  LoadList(reader, state.allocations);
  LoadList(reader, state.reservations);
  LoadList(reader, state.physicals);
  LoadList(reader, state.mappings);
  if (reader.failed() || reader.left() != 0) return std::nullopt;
  return state;
}

}  // namespace softgpu
