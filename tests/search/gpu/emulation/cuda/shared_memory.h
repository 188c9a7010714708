// An allocation of a block's shared memory, poisoned and guarded.
#pragma once
#include "system.h"

namespace emulation {

// NaN as float, half and bfloat16, no plausible integer: a read of what no thread wrote shows.
constexpr uint16_t kPoison = 0xFFCD;

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuardBytes = 0;  // the sanitizer has its own
#else
constexpr size_t kGuardBytes = 256;
#endif

inline void fill_with_poison(void* memory, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    static_cast<uint8_t*>(memory)[i] = static_cast<uint8_t>(kPoison >> 8 * (i & 1));
  }
}

// One allocation of a block: poison between two guards, which no thread may have touched.
class SharedMemory {
 public:
  const void* site = nullptr;  // of a static one: identifies the declaration
  size_t bytes = 0;

  void allocate(size_t n_bytes, size_t alignment) {
    bytes = n_bytes;
    lead_ = kGuardBytes ? (kGuardBytes + alignment - 1) / alignment * alignment : 0;
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, lead_ + bytes + kGuardBytes)) abort();
    start_ = static_cast<uint8_t*>(memory);
    poison();
  }
  void release() {
    free(start_);
    start_ = nullptr;
  }
  void* data() { return start_ + lead_; }
  void poison() { fill_with_poison(start_, lead_ + bytes + kGuardBytes); }
  bool overwritten() const {
    uint8_t clean[kGuardBytes + 1];
    fill_with_poison(clean, kGuardBytes);
    // Both guards start at an even offset or at `bytes`, where the pattern may be turned.
    const uint8_t* after = start_ + lead_ + bytes;
    for (size_t i = 0; i < kGuardBytes; i++) {
      if (after[i] != clean[(i + bytes) & 1]) return true;
    }
    return memcmp(start_ + lead_ - kGuardBytes, clean, kGuardBytes) != 0;
  }

 private:
  uint8_t* start_ = nullptr;
  size_t lead_ = 0;
};

}  // namespace emulation
