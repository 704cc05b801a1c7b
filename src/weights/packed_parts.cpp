#include "weights/packed_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>

#include "base/json.h"
#include "base/utf8.h"
#include "steadyflux/error.h"
#include "weights/key_names.h"

namespace steadyflux {
namespace {

using Companions = std::map<std::string, const TensorView*>;  // by suffix

constexpr std::string_view kBnbState = "quant_state.bitsandbytes__";

Error fail(const TensorView& view, const std::string& name, const std::string& what) {
  return {ErrorKind::kBadInput,
          fmt::format("{}: tensor {} {}", view.file->path().string(), printable(name), what)};
}

const TensorView* find(const Companions& companions, const std::string& suffix) {
  const auto it = companions.find(suffix);
  return it == companions.end() ? nullptr : it->second;
}

template <std::size_t kCount>
void read_table(const TensorView& view, const std::string& name, std::array<float, kCount>& table) {
  if (view.dtype != DType::kF32 || view.nbytes != sizeof table) {
    throw fail(view, name,
               fmt::format("has {} values of {}, expected {} of F32", value_count(view.shape),
                           to_string(view.dtype), kCount));
  }
  std::memcpy(table.data(), view.data, sizeof table);
}

const TensorView& expect(const Companions& companions, const std::string& suffix,
                         const TensorView& values, const std::string& name, DType dtype,
                         std::int64_t count) {
  const TensorView* view = find(companions, suffix);
  if (view == nullptr) throw fail(values, name, fmt::format("lacks its {}", suffix));
  if (view->dtype != dtype || value_count(view->shape) != count) {
    throw fail(
        *view, name,
        fmt::format("has as its {} {} values of {}, expected {} of {}", suffix,
                    value_count(view->shape), to_string(view->dtype), count, to_string(dtype)));
  }
  return *view;
}

// bitsandbytes' description of a 4-bit tensor, JSON in a tensor of bytes.
class BnbState {
 public:
  BnbState(const TensorView& view, const std::string& name)
      : view_(view),
        name_(name),
        json_(parse_json({reinterpret_cast<const char*>(view.data), view.nbytes},
                         view.file->path())) {
    if (!json_.is_object()) throw bad("is not an object");
  }

  std::int64_t positive(const char* key, std::int64_t most) const {
    const auto it = json_.find(key);
    if (it == json_.end() || !it->is_number_integer() || it->get<double>() < 1 ||
        it->get<double>() > static_cast<double>(most)) {
      throw bad(fmt::format("has no {} from 1 to {}", key, most));
    }
    return it->get<std::int64_t>();
  }

  std::vector<std::int64_t> shape() const {
    const auto it = json_.find("shape");
    std::vector<std::int64_t> shape;
    if (it != json_.end() && it->is_array() && it->size() <= 4) {
      for (const auto& side : *it) {
        if (!side.is_number_integer() || side.get<double>() < 1 || side.get<double>() > 1e9) break;
        shape.push_back(side.get<std::int64_t>());
      }
      if (!shape.empty() && shape.size() == it->size()) return shape;
    }
    throw bad("has no shape");
  }

  bool has(const char* key) const { return json_.contains(key); }

  float number(const char* key) const {
    const auto it = json_.find(key);
    const double value = it != json_.end() && it->is_number() ? it->get<double>() : NAN;
    if (!std::isfinite(value)) throw bad(fmt::format("has no number {}", key));
    return static_cast<float>(value);
  }

 private:
  Error bad(const std::string& what) const {
    return fail(view_, name_, fmt::format("has a quant_state that {}", what));
  }

  const TensorView& view_;
  const std::string& name_;
  nlohmann::json json_;
};

StoredRows bnb_codes(const TensorView& values, const std::string& name,
                     const Companions& companions, const TensorView& state_view) {
  constexpr std::int64_t kMostBlock = 1 << 20;
  const BnbState state(state_view, name);
  StoredRows rows{values, PackedCompanions{}};
  PackedCompanions& packed = *rows.packed;
  packed.packing = Packing::kCodes4;
  rows.values.shape = state.shape();
  const double exact = std::accumulate(rows.values.shape.begin(), rows.values.shape.end(), 1.0,
                                       [](double a, std::int64_t b) { return a * double(b); });
  if (values.dtype != DType::kU8 || exact > 1e15 ||
      static_cast<std::int64_t>(values.nbytes) * 2 != value_count(rows.values.shape)) {
    throw fail(values, name,
               fmt::format("has {} bytes of {}, expected codes of 4 bits for {}", values.nbytes,
                           to_string(values.dtype), shape_to_string(rows.values.shape)));
  }
  const auto count = value_count(rows.values.shape);
  packed.block = state.positive("blocksize", kMostBlock);
  if (packed.block % 2 != 0) throw fail(values, name, "has an odd blocksize");
  const auto blocks = (count + packed.block - 1) / packed.block;
  const auto tables = std::make_shared<CodeTables>();
  read_table(expect(companions, "quant_map", values, name, DType::kF32, 16), name, tables->code);
  if (state.has("nested_blocksize")) {
    packed.nested_block = state.positive("nested_blocksize", kMostBlock);
    packed.nested_offset = state.number("nested_offset");
    packed.absmax = expect(companions, "absmax", values, name, DType::kU8, blocks);
    packed.nested_absmax = expect(companions, "nested_absmax", values, name, DType::kF32,
                                  (blocks + packed.nested_block - 1) / packed.nested_block);
    read_table(expect(companions, "nested_quant_map", values, name, DType::kF32, 256), name,
               tables->nested_code);
  } else {
    packed.absmax = expect(companions, "absmax", values, name, DType::kF32, blocks);
  }
  packed.tables = tables;
  return rows;
}

bool is_scale_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

StoredRows scaled(const TensorView& values, const std::string& name, const Companions& companions) {
  StoredRows rows{values, PackedCompanions{}};
  rows.packed->packing = Packing::kScaled;
  for (const char* suffix : {"scale_weight", "weight_scale"}) {
    const TensorView* scales = find(companions, suffix);
    if (scales == nullptr) continue;
    const auto count = value_count(scales->shape);
    const auto out = values.shape.empty() ? 1 : values.shape.front();
    if (!is_scale_dtype(scales->dtype) || (count != 1 && count != out)) {
      throw fail(*scales, name,
                 fmt::format("has as its {} {} of {}, expected one value of F32, BF16 or F16, or "
                             "one for each of {} rows",
                             suffix, count, to_string(scales->dtype), out));
    }
    rows.packed->scales = *scales;
    return rows;
  }
  return rows;
}

StoredRows llm_int8(const TensorView& values, const std::string& name,
                    const Companions& companions) {
  if (values.shape.size() != 2) throw fail(values, name, "is I8, but no matrix");
  // Rows as they are; older files may hold them in a GPU's own order.
  const TensorView* format = find(companions, "weight_format");
  if (format != nullptr && format->nbytes > 0 && format->data[0] != std::byte{0}) {
    throw fail(*format, name,
               "is LLM.int8 in the order of a GPU (weight_format is not 0); save it again with a "
               "present bitsandbytes");
  }
  StoredRows rows{values, PackedCompanions{}};
  rows.packed->packing = Packing::kScaled;
  rows.packed->scale_factor = 1.0F / 127.0F;
  rows.packed->scales = expect(companions, "SCB", values, name, DType::kF32, values.shape[0]);
  return rows;
}

bool is_one(const TensorView& scale) {
  if (!is_scale_dtype(scale.dtype) || value_count(scale.shape) != 1) return false;
  float value = 0;
  read_values({scale, std::nullopt}, 0, 1, &value);
  return value == 1.0F;
}

// Plain weights have none; passing one over would give other values.
void refuse_scales(const TensorView& values, const std::string& name,
                   const Companions& companions) {
  for (const char* suffix : {"scale_weight", "weight_scale", "SCB"}) {
    const TensorView* scales = find(companions, suffix);
    if (scales == nullptr) continue;
    if (is_one(*scales)) continue;
    throw fail(
        values, name,
        fmt::format("is {} with a {} beside it: a quantisation that steadyflux does not know",
                    to_string(values.dtype), suffix));
  }
}

StoredRows assemble(const TensorView& values, const std::string& name,
                    const Companions& companions) {
  for (const auto& [suffix, view] : companions) {
    if (suffix.starts_with(kBnbState)) return bnb_codes(values, name, companions, *view);
  }
  if (is_block(values.dtype)) {
    return {values, PackedCompanions{}};
  }
  if (values.dtype == DType::kF8E4M3 || values.dtype == DType::kF8E5M2) {
    return scaled(values, name, companions);
  }
  if (values.dtype == DType::kI8 && find(companions, "SCB") != nullptr) {
    return llm_int8(values, name, companions);
  }
  refuse_scales(values, name, companions);
  return {values, std::nullopt};
}

// A view of part of `view`: `count` items of it from `first` on, in the shape given.
TensorView part_of(const TensorView& view, std::int64_t first, std::int64_t count,
                   std::vector<std::int64_t> shape, std::size_t item_bytes) {
  TensorView part = view;
  part.shape = std::move(shape);
  part.data += static_cast<std::size_t>(first) * item_bytes;
  part.nbytes = static_cast<std::size_t>(count) * item_bytes;
  return part;
}

void cut_codes(StoredRows& rows, std::int64_t first, std::int64_t count, const std::string& name) {
  PackedCompanions& packed = *rows.packed;
  const auto begin = packed.first_value + first, end = begin + count;
  if (first % 2 != 0 || count % 2 != 0) {
    throw fail(rows.values, name, "has rows of an odd length, which 4-bit codes cannot be cut at");
  }
  // What is kept of absmax begins with a whole block of what its own scales are for.
  const auto unit = packed.nested_absmax.data != nullptr ? packed.nested_block : 1;
  const auto first_block = begin / packed.block / unit * unit;
  const auto end_block = (end + packed.block - 1) / packed.block;
  const auto size = item_size(packed.absmax.dtype);
  packed.absmax =
      part_of(packed.absmax, first_block, end_block - first_block, {end_block - first_block}, size);
  if (packed.nested_absmax.data != nullptr) {
    const auto first_nested = first_block / unit, end_nested = (end_block + unit - 1) / unit;
    packed.nested_absmax = part_of(packed.nested_absmax, first_nested, end_nested - first_nested,
                                   {end_nested - first_nested}, sizeof(float));
  }
  packed.first_value = begin - first_block * packed.block;
}

}  // namespace

std::map<std::string, StoredRows> assemble_packed(
    const std::map<std::string, TensorView>& tensors) {
  std::map<std::string, Companions> companions;
  for (const auto& [name, view] : tensors) {
    const auto split = split_companion(name);
    // What stands beside nothing is a tensor of its own, and will be found to have no place.
    if (!split.suffix.empty() && tensors.count(split.base) > 0) {
      companions[split.base][split.suffix] = &view;
    }
  }
  std::map<std::string, StoredRows> result;
  for (const auto& [name, view] : tensors) {
    const auto split = split_companion(name);
    if (!split.suffix.empty() && (split.base.empty() || tensors.count(split.base) > 0)) continue;
    const auto found = companions.find(name);
    result.emplace(name,
                   assemble(view, name, found == companions.end() ? Companions{} : found->second));
  }
  return result;
}

StoredRows cut_rows(const StoredRows& rows, std::int64_t begin, std::int64_t end,
                    const std::string& name) {
  const TensorView& values = rows.values;
  auto shape = values.shape;
  if (begin == 0 && end == shape.front()) return rows;
  shape.front() = end - begin;
  const auto row = value_count(shape) / std::max<std::int64_t>(shape.front(), 1);
  StoredRows result = rows;
  if (rows.packed && rows.packed->packing == Packing::kCodes4) {
    cut_codes(result, begin * row, (end - begin) * row, name);
    result.values = part_of(values, begin * row / 2, (end - begin) * row / 2, shape, 1);
    return result;
  }
  const auto items = item_values(values.dtype);
  result.values = part_of(values, begin * row / items, (end - begin) * row / items, shape,
                          item_size(values.dtype));
  if (!rows.packed) return result;
  const auto& scales = rows.packed->scales;
  if (const auto size = item_size(scales.dtype); scales.nbytes > size) {  // one for each row
    result.packed->scales = part_of(scales, begin, end - begin, {end - begin}, size);
  }
  return result;
}

}  // namespace steadyflux
