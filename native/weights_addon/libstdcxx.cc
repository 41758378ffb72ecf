// What the headers of GCC 11 and later call and the libstdc++ of RHEL 8 and 9 lacks
// (GLIBCXX_3.4.29): new[] with a size that does not fit. For the core LibTorch brings it.
#include <bits/functexcept.h>

#include <new>

namespace std {

void __throw_bad_array_new_length() { throw bad_array_new_length(); }

}  // namespace std
