// Prompts already encoded, in a .safetensors file: made where there is RAM for T5, used where the
// graphics card is. Each prompt N has the tensors `prompt_embeds.N` and `pooled_prompt_embeds.N`,
// and in the metadata its text and how it was encoded. A file with the two plain names, as
// safetensors.torch.save_file writes what diffusers' encode_prompt gives, is read as well.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "weights/safetensors.h"

namespace steadyflux {

class UnfinishedFile;

// What the names of unfinished files begin with, of embeddings and of what is kept beside them.
inline constexpr const char* kUnfinishedEmbeds = ".steadyflux-embeds-";

struct StoredEmbeds {
  std::string prompt;                             // "" also if the file does not say it
  std::string prompt_2 = {};                      // what T5 read; "": the prompt, as CLIP did
  bool negative = false;                          // no picture is of it: a negative prompt
  std::int64_t max_sequence_length = 0;           // T5 tokens, S
  std::string encoder;                            // kept_identity() of them; "" if it is not known
  std::string loras;                              // on the encoders; "" if it is not known
  std::string dtype;                              // bf16, fp16, fp32
  std::vector<std::int64_t> prompt_embeds_shape;  // [1, S, joint_attention_dim]
  std::vector<std::int64_t> pooled_shape;         // [1, pooled_projection_dim]
  std::vector<std::byte> prompt_embeds;
  std::vector<std::byte> pooled;
};

// All functions throw Error: kBadInput for a file that is damaged or holds something else, kIo
// where reading or writing fails.
class PromptEmbedsFile {
 public:
  // Reads the header only.
  explicit PromptEmbedsFile(const std::filesystem::path& path);

  std::size_t size() const { return entries_.size(); }
  // Everything but the values.
  const StoredEmbeds& info(std::size_t i) const { return entries_.at(i).info; }
  // With the values; memory is taken for this prompt only.
  StoredEmbeds load(std::size_t i) const;

  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  struct Entry {
    StoredEmbeds info;
    TensorView prompt_embeds;
    TensorView pooled;
    std::string checksum;  // "": the file has none
  };
  void add(const std::string& suffix, const TensorView& prompt_embeds, const TensorView& pooled);

  std::filesystem::path path_;
  std::map<std::string, std::string> metadata_;
  std::vector<Entry> entries_;
};

struct EmbedsWriteOptions {
  std::filesystem::path temporary_folder = {};       // "": that of the file
  mode_t mode = 0666;                                // of a new file, less the umask
  bool durable = true;                               // on the disk when finish() returns
  std::map<std::string, std::string> metadata = {};  // beside that of the prompts
};

// Writes prompts one after the other, so that not all values need be in memory at once.
class PromptEmbedsWriter {
 public:
  // `contents` are the prompts to come, without values: all but those must be known, and the dtype
  // the same for all. Notices at once if the file cannot be written.
  PromptEmbedsWriter(const std::filesystem::path& path, std::vector<StoredEmbeds> contents,
                     EmbedsWriteOptions options = {});
  ~PromptEmbedsWriter();

  // The values of the next prompt, as long as its shapes say.
  void add(const std::vector<std::byte>& prompt_embeds, const std::vector<std::byte>& pooled);
  // After the last: the file has its name from now on. Without this call there is none.
  void finish();

 private:
  std::vector<std::uint8_t> header() const;

  std::vector<StoredEmbeds> contents_;
  EmbedsWriteOptions options_;
  std::vector<std::string> checksums_;  // of the prompts that were added
  std::unique_ptr<UnfinishedFile> file_;
};

void write_prompt_embeds(const std::filesystem::path& path,
                         const std::vector<StoredEmbeds>& embeds);
std::vector<StoredEmbeds> read_prompt_embeds(const std::filesystem::path& path);

}  // namespace steadyflux
