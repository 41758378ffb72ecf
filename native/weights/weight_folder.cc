#include "weights/weight_folder.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "weights/reader_util.h"

namespace jitflux {

namespace {

// Names that libraries give to weights.
constexpr std::string_view kDefaultBases[] = {"diffusion_pytorch_model", "model"};

// The weights that belong together: one file, or shards and their index.
struct Candidate {
  std::string single;
  std::string index;
  std::vector<std::string> shards;
};

struct Key {
  std::string base;
  std::string variant;
  bool archive = false;  // .pt

  auto operator<=>(const Key&) const = default;
};

bool strip(std::string_view* text, std::string_view suffix) {
  if (!text->ends_with(suffix)) return false;
  text->remove_suffix(suffix.size());
  return true;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Takes ".fp16" off the end, if it is a variant: a letter, then letters, digits and underscores.
std::string take_variant(std::string_view* text) {
  const size_t dot = text->rfind('.');
  if (dot == text->npos || dot == 0) return {};
  const std::string_view variant = text->substr(dot + 1);
  const auto fits = [](char c) { return is_letter(c) || is_digit(c) || c == '_'; };
  if (variant.empty() || !is_letter(variant[0]) ||
      !std::all_of(variant.begin(), variant.end(), fits))
    return {};
  text->remove_suffix(text->size() - dot);
  return std::string(variant);
}

// Takes "-00001-of-00003" off the end.
bool take_shard_number(std::string_view* text) {
  constexpr std::string_view kPattern = "-ddddd-of-ddddd";
  if (text->size() <= kPattern.size()) return false;
  const std::string_view tail = text->substr(text->size() - kPattern.size());
  for (size_t i = 0; i < kPattern.size(); ++i) {
    if (kPattern[i] == 'd' ? !is_digit(tail[i]) : kPattern[i] != tail[i]) return false;
  }
  text->remove_suffix(kPattern.size());
  return true;
}

// <base>.safetensors.index.json, with the variant in one of two places.
std::optional<Key> index_key(std::string_view name) {
  if (!strip(&name, ".json")) return {};
  Key key;
  if (!strip(&name, ".index")) {
    key.variant = take_variant(&name);
    if (key.variant.empty() || !strip(&name, ".index")) return {};
  }
  if (!strip(&name, ".safetensors")) {
    if (!key.variant.empty()) return {};
    key.variant = take_variant(&name);
    if (key.variant.empty() || !strip(&name, ".safetensors")) return {};
  }
  if (name.empty()) return {};
  key.base = name;
  return key;
}

void sort_in(const std::string& name, std::map<Key, Candidate>* candidates) {
  if (const auto key = index_key(name)) {
    (*candidates)[*key].index = name;
    return;
  }
  std::string_view stem = name;
  Key key;
  key.archive = strip(&stem, ".pt");
  if (!key.archive && !strip(&stem, ".safetensors")) return;
  bool is_shard = take_shard_number(&stem);
  key.variant = take_variant(&stem);
  if (!is_shard && !key.variant.empty()) is_shard = take_shard_number(&stem);
  key.base = stem;
  Candidate& candidate = (*candidates)[key];
  if (is_shard) {
    candidate.shards.push_back(name);
  } else {
    candidate.single = name;
  }
}

// Empty for shards without an index.
const std::string& file_of(const Candidate& candidate) {
  const bool stale = !candidate.index.empty() && candidate.shards.empty();
  if (stale && !candidate.single.empty()) return candidate.single;
  return candidate.index.empty() ? candidate.single : candidate.index;
}

// The variant to take, "" for weights without one.
std::string variant_to_take(const std::string& folder, const std::map<Key, Candidate>& candidates,
                            const std::string& wanted) {
  std::set<std::string> variants;
  for (const auto& [key, candidate] : candidates) variants.insert(key.variant);
  for (const std::string& variant : {wanted, std::string()}) {
    if (variants.contains(variant)) return variant;
  }
  if (variants.size() == 1) return *variants.begin();
  std::string list;
  for (const std::string& variant : variants) list += (list.empty() ? "" : ", ") + variant;
  throw Error(error_code::kUnsupportedFormat,
              printable_path(folder) + ": the folder holds several variants of its weights (" +
                  list + "); say which (variant, --variant)",
              {{"path", folder},
               {"candidates", std::vector<std::string>(variants.begin(), variants.end())}});
}

// The one that is told from the others by `of`, if one is and no other.
template <typename Predicate>
const Candidate* only(const std::vector<const std::pair<const Key, Candidate>*>& among,
                      const Predicate& of) {
  const Candidate* found = nullptr;
  for (const auto* entry : among) {
    if (!of(*entry)) continue;
    if (found != nullptr) return nullptr;
    found = &entry->second;
  }
  return found;
}

[[noreturn]] void refuse_several(const std::string& folder,
                                 const std::vector<const std::pair<const Key, Candidate>*>& among) {
  std::vector<std::string> names;
  for (const auto* entry : among) {
    const std::string& file = file_of(entry->second);
    names.push_back(file.empty() ? entry->second.shards[0] : file);
  }
  std::string list;
  for (size_t i = 0; i < names.size() && i < 20; ++i) {
    list += (i > 0 ? ", " : "") + in_quotes(names[i]);
  }
  if (names.size() > 20) list += ", ...";
  throw Error(
      error_code::kUnsupportedFormat,
      printable_path(folder) + ": the folder holds several weight files, name one of them: " + list,
      {{"path", folder}, {"candidates", names}});
}

}  // namespace

std::optional<std::string> choose_weights(const std::string& folder,
                                          const std::vector<std::string>& names,
                                          const std::string& variant) {
  std::map<Key, Candidate> candidates;
  for (const std::string& name : names) {
    if (!name.starts_with('.')) sort_in(name, &candidates);
  }
  if (candidates.empty()) return {};
  const std::string taken = variant_to_take(folder, candidates, variant);
  std::vector<const std::pair<const Key, Candidate>*> among;
  for (const auto& entry : candidates) {
    if (entry.first.variant == taken) among.push_back(&entry);
  }
  const Candidate* chosen = among.size() == 1 ? &among[0]->second : nullptr;
  if (chosen == nullptr) {
    chosen = only(among, [](const auto& entry) {
      return std::find(std::begin(kDefaultBases), std::end(kDefaultBases), entry.first.base) !=
             std::end(kDefaultBases);
    });
  }
  if (chosen == nullptr) {
    chosen = only(among, [](const auto& entry) { return !entry.second.index.empty(); });
  }
  if (chosen == nullptr) refuse_several(folder, among);
  const std::string& file = file_of(*chosen);
  if (file.empty()) {
    throw Error(error_code::kUnsupportedFormat,
                printable_path(folder) + ": the folder holds " +
                    std::to_string(chosen->shards.size()) + " shards (" +
                    in_quotes(chosen->shards[0]) +
                    ", ...) without the index that belongs to them, a .safetensors.index.json; get "
                    "it from where they come from",
                {{"path", folder}, {"candidates", chosen->shards}});
  }
  return file;
}

std::optional<std::string> find_folder_weights(const std::string& folder,
                                               const std::string& variant) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(folder.c_str()), ::closedir);
  if (directory == nullptr) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) return {};
    fail(error_code::kFileNotFound, folder,
         "cannot list the directory (" + std::generic_category().message(error) + ")");
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory.get())) names.emplace_back(entry->d_name);
  std::sort(names.begin(), names.end());
  const std::optional<std::string> name = choose_weights(folder, names, variant);
  if (!name) return {};
  return (folder.ends_with('/') ? folder : folder + "/") + *name;
}

}  // namespace jitflux
