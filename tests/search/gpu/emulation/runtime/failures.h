// What stops a launch, and says where.
#pragma once
#include "../cuda/runtime.h"
#include "switching.h"

namespace emulation {

// Notes the first error of the launch, with its block.
__attribute__((format(printf, 2, 3))) inline void note_failure(Block& block, const char* format,
                                                               ...) {
  if (!block.launch->claim_failure()) return;
  char* message = block.launch->message;
  const size_t bytes = block.launch->message_bytes;
  const uint3 index = block.index;
  const int n = snprintf(message, bytes, "block (%u, %u, %u): ", index.x, index.y, index.z);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message + n, bytes - n, format, arguments);
  va_end(arguments);
}

// Leaves the block: the scheduler drops its fibers.
[[noreturn]] inline void abandon_block(Block& block, Fiber& fiber) {
  switch_between(block, &fiber, nullptr);
  abort();
}

[[noreturn]] inline void fail_together(Block& block, Fiber& fiber, const Fiber& other,
                                       const char* why) {
  const uint3 a = fiber.thread, b = other.thread;
  note_failure(block,
               "thread (%u, %u, %u) is in %s at %s:%d while thread (%u, %u, %u) waits in %s at "
               "%s:%d: %s",
               a.x, a.y, a.z, fiber.place.what, fiber.place.file, fiber.place.line, b.x, b.y, b.z,
               other.place.what, other.place.file, other.place.line, why);
  abandon_block(block, fiber);
}

}  // namespace emulation
