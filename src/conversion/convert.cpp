#include "conversion/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "base/quiet_thread.h"
#include "base/utf8.h"
#include "conversion/pack_piece.h"
#include "quantization/quantize.h"
#include "steadyflux/error.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {
namespace {

// Values that a thread works on at a time; 4 MiB as fp32, and it has two copies of them.
constexpr std::int64_t kPieceValues = 1 << 20;

struct Piece {
  const StoredRows* rows = nullptr;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

// Whole rows, an even number of them: packed values of every kind can be cut there.
std::vector<Piece> pieces_of(const PlannedTensor& tensor) {
  std::vector<Piece> pieces;
  const auto row = tensor.shape.size() < 2 ? 1 : tensor.shape.back();
  const auto step = std::max<std::int64_t>(kPieceValues / row / 2 * 2, 2) * row;
  for (const StoredRows& rows : tensor.rows) {
    const auto all = value_count(rows.values.shape);
    for (std::int64_t first = 0; first < all; first += step) {
      pieces.push_back({&rows, first, std::min(step, all - first)});
    }
  }
  return pieces;
}

// Pages of the source that were read need not stay.
void forget(const PlannedTensor& tensor) {
  for (const StoredRows& rows : tensor.rows) {
    for (const TensorView* view : rows.views()) {
      if (view->file) view->file->forget({view->data, view->nbytes});
    }
  }
}

// work(i) for i in [0, count), the first in this thread and each other one in its own. The first
// exception comes out once all have ended.
void side_by_side(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::vector<std::exception_ptr> failures(count);
  const auto guarded = [&](std::size_t i) {
    try {
      work(i);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  std::size_t started = 1;
  try {
    for (; started < count; ++started) {
      threads.push_back(start_quiet_thread([&guarded, i = started] { guarded(i); }));
    }
  } catch (const std::system_error&) {
    // Fewer threads than were asked for do as well: the rest is done here.
  }
  for (std::size_t i = started; i < count; ++i) guarded(i);
  guarded(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

struct TypeSums {
  TypeReport report;
  double squared_error = 0;
  double squared_values = 0;
};

// Is it the type's range that the values went wrong by? In range, rounding takes at most a third of
// them away (blocks of 4 bits, one large value in each); an 8-bit float's scale, which the whole
// tensor shares, may be so large that the others become 0, and the error is still small beside the
// largest.
bool out_of_range(const PackedPiece& sums, DType dtype) {
  constexpr double kMostError = 0.5;  // relative
  if (sums.beyond > 0) return true;
  if (sums.squared_error > kMostError * kMostError * sums.squared_values) return true;
  return dtype == DType::kF8E4M3 && sums.vanished > sums.not_zero / 2;
}

class Converter {
 public:
  using Write = std::function<void(const PlannedTensor&, std::span<const std::byte>)>;

  Converter(const ConversionPlan& plan, int threads, const ConversionProgress& progress)
      : threads_(static_cast<std::size_t>(std::max(threads, 1))), progress_(progress) {
    for (const PlannedTensor& tensor : plan.tensors) total_ += value_count(tensor.shape);
    warnings_ = plan.warnings;
  }

  float scale_of(const PlannedTensor& tensor) {
    const auto pieces = pieces_of(tensor);
    float largest = 0;
    for_waves(pieces.size(), [&](std::size_t first, std::size_t count) {
      std::vector<float> found(count);
      side_by_side(count, [&](std::size_t i) {
        const Piece& piece = pieces[first + i];
        found[i] = largest_magnitude(*piece.rows, piece.first, piece.count);
      });
      largest = std::max(largest, *std::max_element(found.begin(), found.end()));
    });
    return float8_e4m3_scale(&largest, 1);
  }

  void tensor(const PlannedTensor& tensor, float scale, const Write& write) {
    const auto pieces = pieces_of(tensor);
    TypeSums& sums = sums_[tensor.dtype];
    PackedPiece all;
    for_waves(pieces.size(), [&](std::size_t first, std::size_t count) {
      std::vector<PackedPiece> packed(count);
      side_by_side(count, [&](std::size_t i) {
        const Piece& piece = pieces[first + i];
        packed[i] = pack_piece(*piece.rows, piece.first, piece.count, tensor.dtype, scale);
      });
      for (std::size_t i = 0; i < count; ++i) {
        if (packed[i].not_finite > 0) throw not_finite(tensor);
        write(tensor, packed[i].bytes);
        sums.report.bytes_after += packed[i].bytes.size();
        add(packed[i], all);
        done_ += pieces[first + i].count;
      }
    });
    if (out_of_range(all, tensor.dtype)) out_of_range_.insert(tensor.name);
    sums.squared_error += all.squared_error;
    sums.squared_values += all.squared_values;
    ++sums.report.tensors;
    sums.report.values += value_count(tensor.shape);
    for (const StoredRows& rows : tensor.rows) {
      for (const TensorView* view : rows.views()) sums.report.bytes_before += view->nbytes;
    }
    forget(tensor);
  }

  // Names of tensors whose type has to be another one.
  const std::set<std::string>& out_of_range_tensors() const { return out_of_range_; }

  ConversionReport report() {
    progress_(done_, total_);
    ConversionReport result;
    for (auto& [dtype, sums] : sums_) {
      sums.report.dtype = dtype;
      sums.report.relative_rms_error =
          sums.squared_values > 0 ? std::sqrt(sums.squared_error / sums.squared_values) : 0;
      result.types.push_back(sums.report);
    }
    std::stable_sort(
        result.types.begin(), result.types.end(),
        [](const TypeReport& a, const TypeReport& b) { return a.bytes_after > b.bytes_after; });
    result.warnings = warnings_;
    return result;
  }

 private:
  template <typename Wave>
  void for_waves(std::size_t pieces, const Wave& wave) {
    for (std::size_t first = 0; first < pieces; first += threads_) {
      progress_(done_, total_);
      wave(first, std::min(threads_, pieces - first));
    }
  }

  static void add(const PackedPiece& piece, PackedPiece& sums) {
    sums.squared_error += piece.squared_error;
    sums.squared_values += piece.squared_values;
    sums.beyond += piece.beyond;
    sums.not_zero += piece.not_zero;
    sums.vanished += piece.vanished;
  }

  static Error not_finite(const PlannedTensor& tensor) {
    return {ErrorKind::kBadInput,
            fmt::format("{}: tensor {} has values that are NaN, infinite or beyond F32; the file "
                        "is damaged, take another copy of this model",
                        tensor.rows.front().values.file->path().string(), printable(tensor.name))};
  }

  std::size_t threads_;
  const ConversionProgress& progress_;
  std::map<DType, TypeSums> sums_;
  std::vector<std::string> warnings_;
  std::set<std::string> out_of_range_;
  std::int64_t done_ = 0;
  std::int64_t total_ = 0;
};

std::vector<TensorLayout> gguf_layouts(const ConversionPlan& plan) {
  std::vector<TensorLayout> layouts;
  for (const PlannedTensor& tensor : plan.tensors) {
    layouts.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  return layouts;
}

// The tensors of a scaled fp8 file in the order of its data: scales and other F32, then those of 16
// bits, then those of 8, so that all are aligned; the marker has no data.
struct Fp8File {
  explicit Fp8File(const ConversionPlan& plan) {
    for (const PlannedTensor& tensor : plan.tensors) {
      (tensor.dtype == DType::kF8E4M3 ? scaled : others).push_back(&tensor);
    }
    std::stable_partition(others.begin(), others.end(),
                          [](const PlannedTensor* tensor) { return tensor->dtype == DType::kF32; });
    std::vector<TensorLayout> layouts;
    for (const PlannedTensor* tensor : scaled)
      layouts.push_back({scale_name(*tensor), DType::kF32, {}});
    for (const auto* list : {&others, &scaled}) {
      for (const PlannedTensor* tensor : *list) {
        layouts.push_back({tensor->name, tensor->dtype, tensor->shape});
      }
    }
    layouts.push_back({"scaled_fp8", DType::kF8E4M3, {0}});
    header = safetensors_header(layouts, plan.safetensors_metadata);
    for (const TensorLayout& layout : layouts) data_bytes += tensor_bytes(layout);
  }

  static std::string scale_name(const PlannedTensor& tensor) {
    constexpr std::string_view kWeight = "weight";
    return tensor.name.substr(0, tensor.name.size() - kWeight.size()) + "scale_weight";
  }

  std::vector<const PlannedTensor*> scaled, others;
  std::vector<std::uint8_t> header;
  std::uint64_t data_bytes = 0;
};

void write_fp8(const ConversionPlan& plan, const ConversionOutput& output, Converter& converter) {
  const Fp8File file(plan);
  std::vector<float> scales(file.scaled.size(), 1.0F);
  const auto beginning = [&] {
    const auto head = std::as_bytes(std::span(file.header));
    const auto values = std::as_bytes(std::span(scales));
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), values.begin(), values.end());
    return bytes;
  };
  const auto write = [&](const PlannedTensor&, std::span<const std::byte> bytes) {
    output.append(bytes);
  };
  output.append(beginning());
  for (const PlannedTensor* tensor : file.others) converter.tensor(*tensor, 1, write);
  for (std::size_t i = 0; i < file.scaled.size(); ++i) {
    scales[i] = converter.scale_of(*file.scaled[i]);
    converter.tensor(*file.scaled[i], scales[i], write);
  }
  output.rewrite_start(beginning());
}

void write_gguf(const ConversionPlan& plan, const ConversionOutput& output, Converter& converter) {
  GgufWriter writer(gguf_layouts(plan), plan.gguf_metadata, output.append);
  for (const PlannedTensor& tensor : plan.tensors) {
    converter.tensor(tensor, 1, [&](const PlannedTensor& of, std::span<const std::byte> bytes) {
      writer.write(of.name, bytes);
    });
  }
  writer.finish();
}

// Those named get their wide type, or F32 if that is what they had.
void widen(ConversionPlan& plan, const std::set<std::string>& names) {
  for (PlannedTensor& tensor : plan.tensors) {
    if (names.count(tensor.name) == 0) continue;
    const DType before = tensor.dtype;
    tensor.dtype = before == tensor.wide ? DType::kF32 : tensor.wide;
    plan.warnings.push_back(fmt::format("tensor {} has values out of the range of {}: kept as {}",
                                        printable(tensor.name), to_string(before),
                                        to_string(tensor.dtype)));
  }
}

}  // namespace

std::uint64_t converted_file_bytes(const ConversionPlan& plan) {
  if (plan.type == DType::kF8E4M3) {
    const Fp8File file(plan);
    return file.header.size() + file.data_bytes;
  }
  return GgufWriter(gguf_layouts(plan), plan.gguf_metadata, [](std::span<const std::byte>) {})
      .file_bytes();
}

ConversionReport convert(const ConversionPlan& plan, const ConversionOutput& output, int threads,
                         const ConversionProgress& progress) {
  // Ends: each time round some types are wider, and F32 holds all that is read.
  for (ConversionPlan current = plan;;) {
    Converter converter(current, threads, progress);
    if (current.type == DType::kF8E4M3) {
      write_fp8(current, output, converter);
    } else {
      write_gguf(current, output, converter);
    }
    const auto& names = converter.out_of_range_tensors();
    if (names.empty()) {
      auto report = converter.report();
      report.file_bytes = converted_file_bytes(current);
      return report;
    }
    widen(current, names);
    output.restart();
  }
}

}  // namespace steadyflux
