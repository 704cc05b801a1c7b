#include "cli/batch_overviews.h"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <utility>

#include "batch/contact_sheet.h"
#include "batch/gallery.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {

namespace fs = std::filesystem;

void check_overviews(const BatchJob& job, const std::vector<BatchItem>& items) {
  const fs::path folder = job.defaults.output;
  for (const auto& [option, path] :
       {std::pair{"contact-sheet", job.contact_sheet}, std::pair{"gallery", job.gallery}}) {
    if (path.empty()) continue;
    const auto overview = fs::weakly_canonical(path);
    for (const auto& item : items) {
      if (fs::weakly_canonical(folder / item.output) != overview) continue;
      throw Error(ErrorKind::kUsage,
                  fmt::format("--{} {}: is the picture of {}", option, path.string(), item.place));
    }
  }
}

void write_overviews(const BatchJob& job, const std::vector<BatchItem>& items, Console& console) {
  const fs::path folder = job.defaults.output;
  std::vector<fs::path> pictures;
  std::vector<GalleryItem> gallery;
  for (const auto& item : items) {
    const auto path = folder / item.output;
    if (!fs::exists(path)) continue;
    pictures.push_back(path);
    const auto& metadata = item.metadata;
    GalleryItem entry{path, item.request.prompt, {}};
    entry.settings = {{"size", fmt::format("{} x {}", metadata.width, metadata.height)},
                      {"steps", fmt::format("{}", metadata.num_inference_steps)},
                      {"seed", fmt::format("{}", metadata.seed)}};
    if (metadata.guidance_scale) {
      entry.settings.emplace_back("guidance", fmt::format("{}", *metadata.guidance_scale));
    }
    if (!metadata.prompt_2.empty()) entry.settings.emplace_back("prompt 2", metadata.prompt_2);
    if (const auto& negative = metadata.negative) {
      entry.settings.emplace_back("negative prompt", negative->prompt);
      if (!negative->prompt_2.empty()) {
        entry.settings.emplace_back("negative prompt 2", negative->prompt_2);
      }
      entry.settings.emplace_back("true CFG scale", fmt::format("{}", negative->true_cfg_scale));
    }
    const auto sampling = sampling_json(metadata.sampling);
    for (const auto& [key, value] : sampling.items()) {
      entry.settings.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
    }
    entry.settings.emplace_back("model", metadata.model);
    gallery.push_back(std::move(entry));
  }
  if (pictures.empty()) return;
  const auto warn = [&console](const std::vector<std::string>& problems) {
    for (const auto& problem : problems) console.warning(problem);
  };
  if (!job.contact_sheet.empty()) warn(write_contact_sheet(pictures, job.contact_sheet));
  if (!job.gallery.empty()) warn(write_gallery(gallery, job.gallery));
}

}  // namespace steadyflux::cli
