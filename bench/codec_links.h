// Whether `auto` is ever slower than what a user could do instead, on links of any speed.
#pragma once

namespace gpumig {

// On links of 0.1, 1, 10 and 25 Gbit/s, which are simulated, and five kinds of bytes: encodes and decodes for real, on
// one core each, by `auto`, not at all, by zstd -1 and, where liblz4.so.1 is there, by LZ4. The three stages of a
// transfer run side by side, so its time is that of the slowest: encoding and decoding as measured (processor time,
// medians; without the digest, which all need), and bytes / link. Prints a table, and on the last line a JSON object
// with codec_worst_vs_best: the worst ratio of `auto` to the best of the others. 0: done.
int CompareCodecsOnLinks();

}  // namespace gpumig
