// What is this file? Told from the names and shapes of its tensors, before anything is read from
// it: people have many files that end in .safetensors or .gguf, and a message that says "this is a
// Stable Diffusion XL checkpoint" helps more than a missing tensor.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/flux_variant.h"
#include "weights/checkpoint.h"
#include "weights/key_names.h"
#include "weights/tensor_view.h"

namespace steadyflux {

enum class FileKind {
  kTransformer,   // FLUX.1's
  kTextEncoder,   // CLIP-L
  kTextEncoder2,  // T5's encoder
  kVae,           // an AutoencoderKL as FLUX.1's; SD3's has the same names and shapes
  kAllInOne,      // several of these
  kLora,
  kOther,    // known, and nothing that steadyflux runs
  kUnknown,  // not known
};

// A component in a file: its tensors are those whose names begin with `prefix`, less what
// placements() does not know.
struct FilePart {
  Component component = Component::kTransformer;
  Naming naming = Naming::kDiffusers;
  std::string prefix;

  bool operator==(const FilePart&) const = default;
};

struct RecognisedFile {
  FileKind kind = FileKind::kUnknown;
  std::vector<FilePart> parts;  // of kTransformer ... kAllInOne
  // Where a transformer is among them. Kontext has the tensors of dev, and is taken for one.
  std::optional<FluxVariant> variant;
  std::string description;  // "a Stable Diffusion XL checkpoint"

  bool has(Component component) const;
};

// `architecture`: `general.architecture` of a GGUF file, else "". Names decide; the architecture,
// which converters fill in as they like ("flux" for Chroma), only helps where they say nothing.
RecognisedFile recognise(const std::map<std::string, TensorView>& tensors,
                         const std::string& architecture = "");

// The same of a file that is open, or of a component folder.
RecognisedFile recognise_file(const Checkpoint& checkpoint);

}  // namespace steadyflux
