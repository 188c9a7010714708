// CUDA C++ on the CPU, for tests: what a kernel's source needs so that g++ compiles and runs it.
//
// Each CUDA thread of a block is a fiber; the fibers of a block share one OS thread and switch only
// where CUDA threads wait for each other (and, in random order, at atomics). OS threads take the
// blocks one by one. source.py prepares a kernel's source and appends the entry points; device.py
// launches. What is the same for every kernel is in ../runtime.
//
// An error (deadlock, divergence, failed assert, write past shared memory) stops the launch and
// comes back as text: the fibers of its block are left as they are and their memory is released.
#pragma once
#include "arithmetic.h"
#include "builtins.h"
#include "entry.h"
#include "half.h"
#include "memory.h"
