#include "image/model_identity.h"

#include "base/file_identity.h"

namespace steadyflux {

std::string model_identity(const std::filesystem::path& folder) {
  return files_identity(folder, list_model_files(folder));
}

}  // namespace steadyflux
