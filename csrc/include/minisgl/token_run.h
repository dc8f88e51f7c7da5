// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:9fb70d72dc71

#pragma once

#include <minisgl/common_prefix.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace minisgl {

/// Token ids that somebody else owns, 32 or 64 bits each.
struct TokenView {
  const void* data;
  int64_t size;
  bool is_wide;  ///< 64 bits each

  const Unaligned<int32_t>* narrow() const { return static_cast<const Unaligned<int32_t>*>(data); }
  const Unaligned<int64_t>* wide() const { return static_cast<const Unaligned<int64_t>*>(data); }
  int64_t operator[](int64_t i) const { return is_wide ? wide()[i] : narrow()[i]; }

  TokenView slice(int64_t start, int64_t length) const {
    return {is_wide ? static_cast<const void*>(wide() + start) : narrow() + start, length, is_wide};
  }
  TokenView from(int64_t start) const { return slice(start, size - start); }
};

/// Length of the common prefix, whatever the widths.
inline int64_t common_prefix(TokenView a, TokenView b) {
  if (a.is_wide && !b.is_wide) std::swap(a, b);
  const auto size = std::min(a.size, b.size);
  if (a.is_wide) return common_prefix(a.wide(), b.wide(), size);
  return b.is_wide ? common_prefix(a.narrow(), b.wide(), size) : common_prefix(a.narrow(), b.narrow(), size);
}

inline bool fits_narrow(TokenView tokens) {
  using Limits = std::numeric_limits<int32_t>;
  if (!tokens.is_wide) return true;
  return std::all_of(tokens.wide(), tokens.wide() + tokens.size,
                     [](int64_t token) { return Limits::min() <= token && token <= Limits::max(); });
}

/// Memory that can give up its end. Growing is not needed.
class Bytes {
 public:
  explicit Bytes(int64_t size) : data_(std::malloc(static_cast<size_t>(size))) {
    if (!data_) throw std::bad_alloc();
  }
  void* data() const { return data_.get(); }

  void shrink(int64_t size) {
    if (void* smaller = std::realloc(data_.get(), static_cast<size_t>(size))) {
      static_cast<void>(data_.release());
      data_.reset(smaller);
    }
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
};

/// The tokens and cache indices of one insertion. When its node is split the parts go on sharing the run: the parts lie
/// on one path and a path is evicted from its end, so what is still needed is always the run's beginning.
class TokenRun {
 public:
  /// Copies both arrays of `tokens.size` entries. Ids are kept in 32 bits if all of them fit.
  TokenRun(TokenView tokens, const void* indices, int index_bytes)
      : index_bytes_(index_bytes),
        is_wide_(!fits_narrow(tokens)),
        size_(tokens.size),
        tokens_(tokens.size * token_bytes()),
        indices_(tokens.size * index_bytes) {
    if (tokens.is_wide == is_wide_) {
      std::copy_n(static_cast<const char*>(tokens.data), size_ * token_bytes(), static_cast<char*>(tokens_.data()));
    } else {
      std::copy_n(tokens.wide(), size_, static_cast<int32_t*>(tokens_.data()));
    }
    std::copy_n(static_cast<const char*>(indices), size_ * index_bytes, static_cast<char*>(indices_.data()));
  }

  TokenView tokens(int64_t start, int64_t length) const {
    return TokenView{tokens_.data(), size_, is_wide_}.slice(start, length);
  }

  void copy_indices(int64_t start, int64_t length, void* output) const {
    std::copy_n(static_cast<const char*>(indices_.data()) + start * index_bytes_, length * index_bytes_,
                static_cast<char*>(output));
  }

  int64_t array_bytes() const { return size_ * (token_bytes() + index_bytes_); }

  int64_t size() const { return size_; }
  int64_t num_parts() const { return num_parts_; }
  void add_part() { ++num_parts_; }

  /// True if no part is left: then the run is to be deleted.
  bool remove_part() { return --num_parts_ == 0; }

  /// Give up the memory from `size` tokens on, which is at least one.
  void truncate(int64_t size) {
    size_ = size;
    tokens_.shrink(size_ * token_bytes());
    indices_.shrink(size_ * index_bytes_);
  }

 private:
  int64_t token_bytes() const { return is_wide_ ? 8 : 4; }

  int index_bytes_;
  bool is_wide_;
  int64_t size_;
  int64_t num_parts_ = 1;
  Bytes tokens_;
  Bytes indices_;
};

}  // namespace minisgl
