// The collectives of a warp: how lanes come together, and what each collective does with them.
#pragma once
#include "runtime.h"

namespace emulation {

// What a lane brings to a collective and takes away from it.
template <class Operation>
struct Offer {
  typename Operation::In in;
  typename Operation::Out out;
};

// The lanes that came, as an operation sees them.
template <class Operation>
struct Lanes {
  void* const* offers;

  bool has(unsigned lane) const { return offers[lane]; }
  const typename Operation::In& in(unsigned lane) const {
    return static_cast<Offer<Operation>*>(offers[lane])->in;
  }
  typename Operation::Out& out(unsigned lane) const {
    return static_cast<Offer<Operation>*>(offers[lane])->out;
  }
  template <class Each>
  void each(Each each) const {
    for (unsigned lane = 0; lane < kWarp; lane++) {
      if (has(lane)) each(lane);
    }
  }
};

template <class Operation>
void finish_operation(void* const offers[kWarp]) {
  Operation::finish(Lanes<Operation>{offers});
}

template <class Operation>
inline typename Operation::Out collective(unsigned mask, const typename Operation::In& in,
                                          Place place) {
  Offer<Operation> offer{in, {}};
  wait_for_lanes(mask, &finish_operation<Operation>, &offer, place);
  return offer.out;
}

struct Nothing {};

struct SyncWarp {
  using In = Nothing;
  using Out = Nothing;
  static void finish(Lanes<SyncWarp>) {}
};

enum class Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
struct ShuffleIn {
  T value;
  unsigned argument;  // source lane, delta or lane mask
  unsigned width;
};

template <class T, Shuffle kind>
struct ShuffleOperation {
  using In = ShuffleIn<T>;
  using Out = T;

  static unsigned source(unsigned lane, unsigned argument, unsigned width) {
    const unsigned first = lane & ~(width - 1);
    const unsigned last = lane | (width - 1);
    unsigned source = lane;
    switch (kind) {
      case Shuffle::kIndex: return first | (argument & (width - 1));
      case Shuffle::kUp: return argument > lane - first ? lane : lane - argument;
      case Shuffle::kDown: return argument > last - lane ? lane : lane + argument;
      case Shuffle::kXor: source = lane ^ argument; return source > last ? lane : source;
    }
    return source;
  }
  static void finish(Lanes<ShuffleOperation> lanes) {
    lanes.each([&](unsigned lane) {
      const In& in = lanes.in(lane);
      const unsigned from = source(lane, in.argument, in.width);
      if (from < kWarp && lanes.has(from)) {
        lanes.out(lane) = lanes.in(from).value;
      } else {
        fill_with_poison(&lanes.out(lane), sizeof(T));  // undefined in CUDA
      }
    });
  }
};

template <Shuffle kind, class T>
inline T shuffle(unsigned mask, T value, unsigned argument, int width, Place place) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "a scalar");
  return collective<ShuffleOperation<T, kind>>(mask, {value, argument, unsigned(width)}, place);
}

struct Ballot {
  using In = bool;
  using Out = unsigned;
  static void finish(Lanes<Ballot> lanes) {
    unsigned votes = 0;
    lanes.each([&](unsigned lane) { votes |= unsigned(lanes.in(lane)) << lane; });
    lanes.each([&](unsigned lane) { lanes.out(lane) = votes; });
  }
};

// Whether none, some or all of the lanes that came voted yes.
struct Votes {
  bool any, all;
};

struct Vote {
  using In = bool;
  using Out = Votes;
  static void finish(Lanes<Vote> lanes) {
    Votes votes{false, true};
    lanes.each([&](unsigned lane) {
      votes.any |= lanes.in(lane);
      votes.all &= lanes.in(lane);
    });
    lanes.each([&](unsigned lane) { lanes.out(lane) = votes; });
  }
};

template <class T, class Combine>
struct Reduction {
  using In = T;
  using Out = T;
  static void finish(Lanes<Reduction> lanes) {
    T result{};
    bool first = true;
    lanes.each([&](unsigned lane) {
      result = first ? lanes.in(lane) : Combine::combine(result, lanes.in(lane));
      first = false;
    });
    lanes.each([&](unsigned lane) { lanes.out(lane) = result; });
  }
};

struct Add {
  template <class T>
  static T combine(T a, T b) {
    return T(unsigned(a) + unsigned(b));  // wraps
  }
};
struct Min {
  template <class T>
  static T combine(T a, T b) {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  static T combine(T a, T b) {
    return a < b ? b : a;
  }
};
struct And {
  template <class T>
  static T combine(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T combine(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T combine(T a, T b) {
    return a ^ b;
  }
};

template <class T>
struct MatchAny {
  using In = T;
  using Out = unsigned;
  static void finish(Lanes<MatchAny> lanes) {
    lanes.each([&](unsigned lane) {
      unsigned same = 0;
      lanes.each([&](unsigned other) {
        same |= unsigned(!memcmp(&lanes.in(lane), &lanes.in(other), sizeof(T))) << other;
      });
      lanes.out(lane) = same;
    });
  }
};

struct MmaIn {
  float d[4];
  unsigned a[4], b[2];
};
struct MmaOut {
  float d[4];
};

// D += A·B with A (16, 16) row-major, B (16, 8) column-major and D (16, 8), in the fragments of
// PTX mma.m16n8k16: the lane is 4 * group + place; a register holds two neighbours along k.
struct Mma16816 {
  using In = MmaIn;
  using Out = MmaOut;

  static float half_of(unsigned pair, unsigned which) {
    const unsigned bits = which ? pair & 0xFFFF0000u : pair << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  static void finish(Lanes<Mma16816> lanes) {
    float a[16][16], b[8][16];
    for (unsigned lane = 0; lane < kWarp; lane++) {
      const unsigned group = lane / 4, place = lane % 4;
      const MmaIn in = lanes.has(lane) ? lanes.in(lane) : MmaIn{};
      for (unsigned i = 0; i < 8; i++) {
        const unsigned pair = i / 2, k = 2 * place + i % 2;
        a[group + 8 * (pair % 2)][k + 8 * (pair / 2)] = half_of(in.a[pair], i % 2);
      }
      for (unsigned i = 0; i < 4; i++) {
        b[group][2 * place + i % 2 + 8 * (i / 2)] = half_of(in.b[i / 2], i % 2);
      }
    }
    lanes.each([&](unsigned lane) {
      for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
        lanes.out(lane).d[i] = lanes.in(lane).d[i] + sum;
      }
    });
  }
};

}  // namespace emulation
