// What this machine's processor can do.
#pragma once

namespace steadyflux {

// Whether it multiplies numbers of 16 bits. Where it does not, libtorch's products in them are some
// fifty times slower than in fp32.
bool cpu_multiplies_bf16();
bool cpu_multiplies_fp16();

}  // namespace steadyflux
