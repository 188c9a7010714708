// Small kernels on which the emulation is tested.
#include <cuda_fp16.h>
#include <cuda_bf16.h>

// out += sum of x; __shared__ memory; of both kinds.
__global__ void __launch_bounds__(256, 2)
total(const float* __restrict__ x,  // (n,)
      int n, float* out) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* parts = reinterpret_cast<float*>(memory);
  __shared__ float sum;
  parts[threadIdx.x] = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    parts[threadIdx.x] += x[i];
  __syncthreads();  // all parts are there
  if (threadIdx.x == 0) {
    sum = 0;
    for (int i = 0; i < blockDim.x; i++) sum += parts[i];
  }
  __syncthreads();  // so is the sum
  if (threadIdx.x == blockDim.x - 1) atomicAdd(out, sum);
}

__global__ void barriers(int* counts) {  // (threads, 3)
  const bool vote = threadIdx.x % 3 == 0;
  counts[3 * threadIdx.x] = __syncthreads_count(vote);
  counts[3 * threadIdx.x + 1] = __syncthreads_or(vote && threadIdx.x == 3);
  counts[3 * threadIdx.x + 2] = __syncthreads_and(threadIdx.x < 100);
}

template <int COLUMNS, bool NEGATE>
__global__ void lanes(const int* in, int* out) {  // (threads,), (threads, COLUMNS)
  const unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
  const int x = NEGATE ? -in[threadIdx.x] : in[threadIdx.x];
  int* row = out + threadIdx.x * COLUMNS;
  row[0] = __shfl_sync(all, x, lane / 2);
  row[1] = __shfl_xor_sync(all, x, 5);
  row[2] = __shfl_down_sync(all, x, 3, 16);
  row[3] = __shfl_up_sync(all, x, 3, 16);
  row[4] = __ballot_sync(all, x > 0);
  row[5] = 2 * __any_sync(all, x > 60) + __all_sync(all, x > -60);
  row[6] = __reduce_add_sync(all, x);
  row[7] = __reduce_min_sync(all, x);
  row[8] = __reduce_max_sync(all, static_cast<unsigned>(x));
  row[9] = __match_any_sync(all, x % 4);
  // The halves of a warp on their own ways, until they meet.
  if (lane < 16)
    row[10] = __shfl_sync(0x0000ffffu, x, 7);
  else
    row[10] = __ballot_sync(0xffff0000u, x > 0);
  __syncwarp();
  if (lane >= 24) return;
  row[11] = __ballot_sync(all, true);  // of those that have not exited
}

__global__ void atomics(int* ints, unsigned* words, unsigned long long* longs, float* floats) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&ints[0], i);
  atomicMax(&ints[1], i);
  atomicMin(&ints[2], -i);
  atomicSub(&ints[3], 1);
  atomicOr(&words[0], 1u << i % 32);
  atomicAnd(&words[1], ~(1u << i % 31));
  atomicXor(&words[2], i);
  atomicInc(&words[3], 6);
  atomicAdd(&longs[0], 1ull << 33);
  atomicMax(&longs[1], 5ull << 40 | i);
  atomicAdd(&floats[0], 0.5f);
  unsigned old = __float_as_uint(floats[1]), assumed;
  do {
    assumed = old;
    const unsigned sum = __float_as_uint(__uint_as_float(assumed) + 1);
    old = atomicCAS(reinterpret_cast<unsigned*>(&floats[1]), assumed, sum);
  } while (old != assumed);
}

__global__ void multiply(const unsigned* a, const unsigned* b, float* d) {
  const int group = threadIdx.x / 4, place = threadIdx.x % 4;
  unsigned fragment_a[4], fragment_b[2];
  float fragment_d[4];
  // Rows of 16 bfloat16 are 8 words; b is given column by column.
  for (int i = 0; i < 4; i++) fragment_a[i] = a[(group + i % 2 * 8) * 8 + place + i / 2 * 4];
  for (int i = 0; i < 2; i++) fragment_b[i] = b[group * 8 + place + i * 4];
  for (int i = 0; i < 4; i++) fragment_d[i] = d[(group + i / 2 * 8) * 8 + place * 2 + i % 2];
  mma_m16n8k16_bf16(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + place * 2 + i % 2] = fragment_d[i];
}

__global__ void conversions(const float* x, int n, __half* halves, __nv_bfloat16* bfloats,
                            int* integers, float* back) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  halves[i] = __float2half_rn(x[i]);
  bfloats[i] = __float2bfloat16_rn(x[i]);
  integers[i] = __float2int_rn(x[i]);
  back[i] = __half2float(__ushort_as_half(i % 65536));
}

__global__ void half_fma(const __half* x, const __half* y, const __half* z, __half* out) {
  out[threadIdx.x] = __hfma(x[threadIdx.x], y[threadIdx.x], z[threadIdx.x]);
}

__global__ void words(const unsigned* x, unsigned* out) {
  const unsigned a = x[0], b = x[1], c = x[2];
  out[0] = __brev(a);
  out[1] = __byte_perm(a, b, 0x7421);
  out[2] = __byte_perm(a, b, 0xba98);
  out[3] = __funnelshift_l(a, b, 35);
  out[4] = __funnelshift_r(a, b, 4);
  out[5] = __dp4a(static_cast<int>(a), static_cast<int>(b), 1);
  out[6] = __dp4a(a, b, 1u);
  out[7] = __clz(c) * 100 + __clz(0);
  out[8] = __ffs(c) * 100 + __popc(a);
  out[9] = min(-1, 5u);
  out[10] = min(-1, 5);
  out[11] = __umulhi(a, b);
}

__global__ void arrivals(unsigned* counter, int* ranks) {  // in which order threads come
  ranks[atomicAdd(counter, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

__global__ void lost_update(int* counter, int* unrelated) {
  const int before = *counter;
  atomicAdd(unrelated, 1);
  *counter = before + 1;
}

__global__ void faults(int which, float* out) {
  extern __shared__ float memory[];
  __shared__ float own[3];
  const int i = threadIdx.x;
  switch (which) {
    case 0: if (i == 5) return; __syncthreads(); break;
    case 1: if (i < 32) __syncthreads(); else __syncwarp(); break;
    case 2: if (i < 16) __syncthreads();
            else __syncthreads_or(0);
            break;
    case 3: if (i % 2) __ballot_sync(~0u, 1); else __shfl_sync(~0u, i, 0); break;
    case 4: __ballot_sync(1u, 1); break;
    case 5: assert(i < 40); break;
    case 6: memory[blockDim.x + i] = 0; break;
    case 7: own[-1 - i % 2] = 0; break;
    case 8: out[i] = memory[i] + own[i % 3]; break;
    case 9: if (i % 32 == 7) { __syncwarp(0xffu); out[i] = 1.0f; } break;
  }
}

__global__ void takes(const uint4* codes, unsigned* rows, const bool* flags, long long number,
                      float factor, void* any) {}

__global__ void copy(const float* x, int n, int n_shared, float* out) {
  extern __shared__ float memory[];
  for (int i = threadIdx.x; i < n_shared; i += blockDim.x) memory[i] = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[0] = x[i] + __shfl_sync(1u << i % 32, n, i);
}

// What a card makes of two floats, as bits; one thread a pair.
__global__ void floats(const float* a, const float* b, int n, unsigned* out) {  // (n,), (n,), (n, 8)
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float x = a[i], y = b[i];
  unsigned* row = out + 8 * i;
  row[0] = __float_as_uint(x);
  row[1] = __float_as_uint(x + y);
  row[2] = __float_as_uint(x * y);
  row[3] = __float_as_uint(fmaf(x, y, x));
  row[4] = __float_as_uint(fminf(x, y));
  row[5] = __float_as_uint(fmaxf(x, y));
  row[6] = __float_as_uint(ldexpf(x, -3));
  row[7] = 2 * (x < y) + (x == y);
}
