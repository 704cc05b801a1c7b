// --checkpoint-every: unfinished pictures of a batch, each in a hidden file of the output folder
// until the picture is done.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

class LatentsFiles : public LatentsStore {
 public:
  // `dtype`: that of the latents.
  LatentsFiles(std::filesystem::path folder, std::int64_t every, std::string dtype);

  // The picture of the next request. What was kept with other settings is not used.
  void add(const std::string& output, const std::string& settings);
  // What was kept of a picture that is done.
  static void remove(const std::filesystem::path& folder, const std::string& output);

  std::int64_t every() const override { return every_; }
  std::optional<SavedLatents> find(std::size_t request, std::int64_t index) override;
  // Throws Error{kIo}.
  void put(std::size_t request, std::int64_t index, const SavedLatents& latents) override;

 private:
  static std::filesystem::path path_of(const std::filesystem::path& folder,
                                       const std::string& output);

  struct Entry {
    std::filesystem::path path;
    std::string settings;
  };

  std::filesystem::path folder_;
  std::int64_t every_;
  std::string dtype_;
  std::vector<Entry> entries_;
};

}  // namespace steadyflux::cli
