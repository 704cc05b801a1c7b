#include "sharing/lease_table.h"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::size_t kBytes = sizeof(ItemState);

[[noreturn]] void fail() {
  throw Error(ErrorKind::kBadInput,
              "the rendezvous store holds something that this version did not put there: use the "
              "same version in all processes, or another port");
}

}  // namespace

bool Session::has(std::int64_t id) const {
  return std::any_of(members.begin(), members.end(),
                     [id](const Member& member) { return member.id == id; });
}

std::string encode(const Session& session) {
  nlohmann::json members = nlohmann::json::array();
  for (const Member& member : session.members) {
    members.push_back({{"id", member.id}, {"name", member.name}});
  }
  return nlohmann::json{{"session", session.number},
                        {"job", session.job_key},
                        {"items", session.items},
                        {"joined", session.joined},
                        {"members", members}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Session decode_session(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    Session session;
    session.number = json.at("session").get<std::int64_t>();
    session.job_key = json.at("job").get<std::string>();
    session.items = json.at("items").get<std::int64_t>();
    session.joined = json.at("joined").get<std::int64_t>();
    for (const auto& member : json.at("members")) {
      session.members.push_back(
          {member.at("id").get<std::int64_t>(), member.at("name").get<std::string>()});
    }
    return session;
  } catch (const nlohmann::json::exception&) {
    fail();
  }
}

// Little-endian, 4 bytes an item.
std::string encode(const Block& block) {
  std::string bytes(block.size() * kBytes, '\0');
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    bytes[at] = static_cast<char>(block[at / kBytes] >> (8 * (at % kBytes)) & 0xff);
  }
  return bytes;
}

Block decode_block(const std::string& bytes, std::int64_t items) {
  if (bytes.size() != static_cast<std::size_t>(items) * kBytes) fail();
  Block block(static_cast<std::size_t>(items), kFree);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    block[at / kBytes] |= static_cast<ItemState>(static_cast<unsigned char>(bytes[at]))
                          << (8 * (at % kBytes));
  }
  return block;
}

bool may_take(ItemState state, const IsGone& is_gone) {
  return state == kFree || (is_leased(state) && is_gone(holder(state)));
}

std::vector<std::int64_t> take_from(Block& block, std::int64_t id, std::int64_t most,
                                    const IsGone& is_gone) {
  std::vector<std::int64_t> taken;
  for (std::size_t at = 0; at < block.size(); ++at) {
    if (static_cast<std::int64_t>(taken.size()) >= most) break;
    if (!may_take(block[at], is_gone)) continue;
    block[at] = leased_by(id);
    taken.push_back(static_cast<std::int64_t>(at));
  }
  return taken;
}

}  // namespace steadyflux
