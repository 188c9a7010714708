"""The card that the GPU benchmark's tests pretend to have."""

from benchmarks.search_gpu.limits import Rates

# An H100's attributes, as CUDA 13 reports them.
ATTRIBUTES = {
    "MultiProcessorCount": 132,
    "ClockRate": 1_980_000,
    "MemoryClockRate": 2_619_000,
    "GlobalMemoryBusWidth": 5120,
    "L2CacheSize": 50 << 20,
}
RATES = Rates.of(ATTRIBUTES, (9, 0))
