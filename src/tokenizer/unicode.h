// The few questions about Unicode that both tokenizers ask. Strings are UTF-8, already checked by
// check_utf8; the tables come from ICU. White space is the White_Space property, which is what the
// regular expressions and the white-space splitting of the reference tokenizers use: U+0085, U+00A0
// and U+3000 are white space, U+180E and U+200B are not. The reference's tables are of different
// Unicode versions (normalisation 9.0, classes 16.0, lower case 17.0); where that can be seen,
// these functions follow it, whatever the version of ICU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace steadyflux {

// Throws Error{kUsage} naming the first byte that is not UTF-8. (No surrogates, no overlong forms.)
void check_utf8(std::string_view text);

// The code point at `pos`, which is moved behind it. `text` is valid UTF-8 and pos < text.size().
char32_t next_code_point(std::string_view text, std::size_t& pos);

void append_utf8(std::string& text, char32_t code_point);

bool is_white_space(char32_t c);
bool is_letter(char32_t c);  // \p{L}
bool is_number(char32_t c);  // \p{N}

// Normalisation form C.
std::string nfc(std::string_view text);

// Lower case of every code point for itself, without context: final sigma stays an ordinary sigma.
// U+0130 becomes two code points.
std::string lower_case(std::string_view text);

}  // namespace steadyflux
