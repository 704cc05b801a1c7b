// The timeline of memory as a file to look at or to compute with: .svg, a drawing for browsers;
// .html, a page with the drawing and a table of the phases; .json, all numbers. Each stands alone.
// Pure functions: whoever calls writes the file.
#pragma once

#include <filesystem>
#include <string>

#include "memory/timeline.h"

namespace steadyflux {

enum class MemoryReportFormat { kJson, kSvg, kHtml };

// By the file's extension. Throws Error{kUsage} for any other than .json, .svg, .html.
MemoryReportFormat memory_report_format(const std::filesystem::path& path);

std::string memory_report(const MemoryTimeline& timeline, MemoryReportFormat format);

// The drawing alone. RAM and, if there are device numbers, the device in panels one below the other
// over the time; the phases as bands with their names; what the plan predicts for each as dashed
// lines, the budget as a line through.
std::string memory_drawing(const MemoryTimeline& timeline);

// Whether there is anything to say of a device.
bool has_device_numbers(const MemoryTimeline& timeline);

}  // namespace steadyflux
