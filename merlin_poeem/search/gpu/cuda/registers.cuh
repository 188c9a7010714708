// Of launch bounds: blocks that a multiprocessor should have the registers for.
#pragma once

// Code for sm_100 and newer takes more registers: as many blocks as on a card before would make some
// compilers spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int FEWER_BLOCKS = 1;
#else
constexpr int FEWER_BLOCKS = 0;
#endif
