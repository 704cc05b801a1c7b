// What people have that steadyflux does not run, and how to tell.
#pragma once

#include <string>

#include "checkpoints/tensor_names.h"

namespace steadyflux {

// "a Stable Diffusion XL checkpoint"; "" if it is none of the known ones. Some of them share names
// with FLUX.1's parts, so this is asked first. LoRAs are no concern of it.
std::string describe_other_model(const TensorNames& names);

// Of a VAE in AutoencoderKL's names: "a Stable Diffusion VAE ..."; "" if it is one as FLUX.1's, or
// none.
std::string describe_other_vae(const TensorNames& names);

// The same as describe_other_model from a GGUF file's `general.architecture`, where tensor names
// tell nothing.
std::string describe_architecture(const std::string& architecture);

}  // namespace steadyflux
