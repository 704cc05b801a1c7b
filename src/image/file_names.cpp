#include "image/file_names.h"

#include <string>

namespace steadyflux {

std::filesystem::path numbered_path(const std::filesystem::path& path, std::int64_t index,
                                    std::int64_t count) {
  if (count <= 1) return path;
  std::string number = std::to_string(index + 1);
  const std::size_t width = std::to_string(count).size();
  if (number.size() < width) number.insert(0, width - number.size(), '0');
  const std::string name = path.stem().string() + "-" + number + path.extension().string();
  return path.parent_path() / name;
}

}  // namespace steadyflux
