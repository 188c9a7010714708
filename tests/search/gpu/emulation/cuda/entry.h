// How Python calls a kernel: what its parameters are, and a launch.
#pragma once
#include "half.h"
#include "runtime.h"

namespace emulation {

// As arguments.py's `_RawParameter`. A kind is
// p(ointer), f(loat), i(nteger), b(ool), v(oid) or c(lass).
struct Parameter {
  const char* type_text;  // … "with T = <the type>]"
  uint64_t size;
  uint64_t pointee_size;
  uint64_t pointee_alignment;
  char kind;
  char pointee_kind;
  char pointee_is_const;
};

template <class T>
const char* type_text() {
  return __PRETTY_FUNCTION__;
}

template <class T>
constexpr char kind_of() {
  using U = std::remove_cv_t<T>;
  if (std::is_pointer<U>::value) return 'p';
  if (std::is_void<U>::value) return 'v';
  if (std::is_same<U, bool>::value) return 'b';
  if (std::is_floating_point<U>::value || std::is_same<U, __half>::value) return 'f';
  if (std::is_integral<U>::value || std::is_enum<U>::value) return 'i';
  if (std::is_same<U, __nv_bfloat16>::value) return 'i';  // NumPy has none: its bits
  return 'c';
}

template <class T>
Parameter parameter() {
  using Pointee = std::remove_pointer_t<T>;
  using Measured = std::conditional_t<std::is_void<Pointee>::value, char, Pointee>;
  return {type_text<T>(),
          sizeof(T),
          sizeof(Measured),
          alignof(Measured),
          kind_of<T>(),
          kind_of<Pointee>(),
          std::is_const<Pointee>::value};
}

template <class... T>
const Parameter* parameters(void (*)(T...), int* n) {
  static const Parameter all[] = {parameter<T>()..., Parameter{}};
  *n = int(sizeof...(T));
  return all;
}

template <class... T>
struct Call {
  void (*kernel)(T...);
  void** arguments;

  template <size_t... I>
  void make(std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<T>*>(arguments[I])...);
  }
  static void body(void* call) { static_cast<Call*>(call)->make(std::index_sequence_for<T...>{}); }
};

// 0, or 1 and the message of the first error.
template <class... T>
int launch(void (*kernel)(T...), const Configuration& configuration, void** arguments,
           char* message, size_t message_bytes) {
  Call<T...> call{kernel, arguments};
  Launch launch{configuration, &Call<T...>::body, &call, message, message_bytes};
  run_grid(launch);
  return launch.failed;
}

}  // namespace emulation
