#include "batch/gallery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <span>
#include <string_view>

#include "base/utf8.h"
#include "image/jpeg.h"
#include "image/output_file.h"
#include "image/read_picture.h"
#include "image/thumbnail.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kNarrowest = 160;  // pixels, that captions can be read

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --page: #f5f6f7; --card: #ffffff; --text: #1f2328;
        --faint: #5b636d; --line: #d5d9de; --empty: #e4e7ea; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181b; --card: #202327; --text: #e4e6e9; --faint: #9aa2ac; --line: #33383e;
          --empty: #2b2f34; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 24px; background: var(--page); color: var(--text);
       font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 4px; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.count { margin: 0 0 20px; color: var(--faint); }
main { display: grid; gap: 16px; align-items: start;
       grid-template-columns: repeat(auto-fill, minmax(min(100%, SIDEpx), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
         overflow: hidden; content-visibility: auto; contain-intrinsic-size: auto 380px; }
figure > a, .missing { display: grid; place-items: center; aspect-ratio: 1;
                       background: var(--empty); }
a img { display: block; max-width: 100%; max-height: 100%; width: auto; height: auto; }
a:focus-visible { outline: 3px solid #2f81f7; outline-offset: -3px; }
.missing { color: var(--faint); }
figcaption { padding: 10px 12px 12px; }
.prompt { margin: 0; max-height: 8.7em; overflow: auto; white-space: pre-wrap;
          overflow-wrap: anywhere; }
.name { margin: 6px 0 0; color: var(--faint); font-size: 12px; overflow-wrap: anywhere; }
details { margin-top: 6px; font-size: 12px; }
summary { color: var(--faint); cursor: pointer; }
dl { margin: 6px 0 0; display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
)";

// Markup is escaped; broken UTF-8 and control characters, which HTML does not allow, become U+FFFD.
std::string html_text(std::string_view text) {
  constexpr const char* kReplacement = "\xef\xbf\xbd";
  std::string html;
  while (!text.empty()) {
    const std::size_t valid = std::min(find_invalid_utf8(text), text.size());
    for (const char c : text.substr(0, valid)) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '&') {
        html += "&amp;";
      } else if (c == '<') {
        html += "&lt;";
      } else if (c == '>') {
        html += "&gt;";
      } else if (c == '"') {
        html += "&quot;";
      } else if (c == '\'') {
        html += "&#39;";
      } else if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
        html += kReplacement;
      } else {
        html += c;
      }
    }
    if (valid < text.size()) html += kReplacement;
    text.remove_prefix(std::min(valid + 1, text.size()));
  }
  return html;
}

// From the page's folder to the picture, as a URL: file names are bytes, and most of them have to
// be spelt out.
std::string relative_url(const fs::path& picture, const fs::path& page) {
  const fs::path from = fs::weakly_canonical(fs::absolute(page)).parent_path();
  const fs::path to = fs::weakly_canonical(fs::absolute(picture));
  std::string url;
  for (const char c : to.lexically_relative(from).generic_string()) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 &&
        (std::isalnum(byte) != 0 || std::string_view("-_.~/").find(c) != std::string_view::npos)) {
      url += c;
    } else {
      url += fmt::format("%{:02X}", byte);
    }
  }
  return url;
}

std::string base64(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t count = std::min<std::size_t>(bytes.size() - at, 3);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) group = group << 8 | (i < count ? bytes[at + i] : 0U);
    for (std::size_t i = 0; i < 4; ++i) {
      text += i <= count ? kLetters[group >> (18 - 6 * i) & 63] : '=';
    }
  }
  return text;
}

// The linked thumbnail, or what stands in its place. `column` becomes as wide as the thumbnail.
std::string picture_html(const GalleryItem& item, const fs::path& page,
                         const GalleryOptions& options, std::int64_t& column,
                         std::vector<std::string>& problems) {
  try {
    const Image image = read_picture(item.picture);
    const Image small = make_thumbnail(image, options.thumbnail);
    column = std::max({column, small.width, small.height});
    const auto jpeg = encode_jpeg(small.width, small.height, small.rgb, "", options.quality);
    return fmt::format(
        "<a href=\"{}\"><img loading=\"lazy\" decoding=\"async\" width=\"{}\" height=\"{}\" "
        "alt=\"{}\" src=\"data:image/jpeg;base64,{}\"></a>\n",
        relative_url(item.picture, page), small.width, small.height, html_text(item.prompt),
        base64(jpeg));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kDoesNotFit) throw;
    problems.emplace_back(error.what());
    return "<div class=\"missing\">cannot be read</div>\n";
  }
}

std::string caption_html(const GalleryItem& item) {
  std::string html = fmt::format(
      "<figcaption>\n<p class=\"prompt\" dir=\"auto\">{}</p>\n<p class=\"name\">{}</p>\n",
      html_text(item.prompt), html_text(item.picture.filename().string()));
  if (!item.settings.empty()) {
    html += "<details><summary>Settings</summary><dl>\n";
    for (const auto& [name, value] : item.settings) {
      html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", html_text(name), html_text(value));
    }
    html += "</dl></details>\n";
  }
  return html + "</figcaption>\n";
}

std::string page_head(const GalleryOptions& options, std::int64_t column, std::size_t pictures) {
  constexpr std::string_view kSide = "SIDE";
  std::string style = kStyle;
  style.replace(style.find(kSide), kSide.size(), std::to_string(column));
  const std::string title = html_text(options.title);
  // The policy says once more that the page is made of itself alone.
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<h1 dir=\"auto\">{}</h1>\n"
      "<p class=\"count\">{} picture{}</p>\n<main>\n",
      title, style, title, pictures, pictures == 1 ? "" : "s");
}

}  // namespace

void check_gallery_path(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension != ".html" && extension != ".htm") {
    throw Error(ErrorKind::kUsage, fmt::format("{}: a gallery is written as .html or .htm, not as "
                                               "'{}'",
                                               path.string(), extension));
  }
}

std::vector<std::string> write_gallery(const std::vector<GalleryItem>& items,
                                       const fs::path& output, const GalleryOptions& options) {
  check_gallery_path(output);
  std::vector<std::string> problems;
  std::int64_t column = kNarrowest;
  std::string figures;
  for (const GalleryItem& item : items) {
    figures += "<figure>\n" + picture_html(item, output, options, column, problems) +
               caption_html(item) + "</figure>\n";
  }
  const std::string page =
      page_head(options, column, items.size()) + figures + "</main>\n</body>\n</html>\n";
  write_file_atomically(output, {reinterpret_cast<const std::uint8_t*>(page.data()), page.size()});
  return problems;
}

}  // namespace steadyflux
