// Which build this is, as --version, doctor and the metadata of pictures tell it.
#pragma once

#include <string>

namespace steadyflux::cli {

std::string steadyflux_version();  // "0.1.0"
std::string libtorch_version();    // "2.15.0", of the headers this was built with
std::string version_line();        // "steadyflux 0.1.0 (libtorch 2.15.0)"

}  // namespace steadyflux::cli
