// The thread of a process that takes its GPU state out of the daemon and puts it into another.
//
// Rules for everything it calls: from the moment a Lock has succeeded until Unlock, any other thread may be stopped at
// any instruction, perhaps holding any lock there is. So no heap, no stdio, no mutex, no lazy binding, no thread-local
// that is not initialised yet: system calls, memory of its own, and what Client marks for it.
#pragma once

#include <array>

#include "plugins/softgpu/client/client.h"
#include "plugins/softgpu/client/control_page.h"

namespace softgpu {

class RestoreThread {
 public:
  RestoreThread(Client& client, ControlPage& page, const std::array<int, 2>& command_pipe,
                const std::array<int, 2>& answer_pipe)
      : client_(client), page_(page), command_fd_(command_pipe[0]), answer_pipe_(answer_pipe) {}

  // Never returns.
  void Run();

 private:
  // Bytes of one device that are not zero, kept in this process while checkpointed.
  struct Piece {
    std::uint32_t ordinal = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::byte* copy = nullptr;  // Null: its bytes are in custom storage.
  };
  // Memory straight from the system.
  struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    bool Allocate(std::size_t wanted, bool huge_pages);
    void Free();
  };

  cuda_abi::CUresult Do(const Command& command);
  cuda_abi::CUresult Lock(const Command& command);
  bool ParkService();
  cuda_abi::CUresult Checkpoint();
  void ReleaseDevices();
  cuda_abi::CUresult CheckpointCustom();
  cuda_abi::CUresult Complete();
  cuda_abi::CUresult ShowPieces(const SessionLink& link);
  void HidePieces();
  cuda_abi::CUresult SaveState();
  // Which pieces there are; `is_custom`: few enough for a view of each device, else with their bytes.
  cuda_abi::CUresult SavePieces(bool is_custom);
  bool CopyPiece(Piece& piece) const;
  template <typename Visit>
  bool ForEachPiece(Visit visit) const;
  void DropSaved();
  cuda_abi::CUresult Restore(const Command& command);
  cuda_abi::CUresult MapDevices(const Command& command, const request::Hello::Reply& devices,
                                std::array<DeviceDescription, kMaxDevices>& chosen) const;
  cuda_abi::CUresult ImportInto(SessionLink& link) const;
  cuda_abi::CUresult FillMemory(const SessionLink& link) const;
  FaultValues Faults() const;
  cuda_abi::CUresult ShowFault(bool is_custom);
  cuda_abi::CUprocessState state() const;
  void set_state(cuda_abi::CUprocessState state) { page_.state.store(state); }

  Client& client_;
  ControlPage& page_;
  const int command_fd_;
  const std::array<int, 2> answer_pipe_;
  // Filled while checkpointed.
  Block saved_state_;
  std::size_t saved_state_bytes_ = 0;
  Block saved_pieces_;  // An array of Piece.
  std::size_t piece_count_ = 0;
  Block saved_memory_;
  bool restore_is_broken_ = false;  // By Fault::kRestoreOutOfMemory, for good.
};

}  // namespace softgpu
