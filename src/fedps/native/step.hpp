// A training step as loops over small blocks of samples. The generated file (see source.py) includes this one and says,
// in the order of the network's operations, which of these to call with which sizes; all sizes but the number of
// samples are known when it is compiled.
//
// A value is float[BLOCK * stride]: a row a sample, its columns padded with zeros to whole vectors. Its gradient lies in
// an array of the same form. What stands in rows behind the last sample of a block is never used.

#include "layers.hpp"
#include "losses.hpp"
#include "rows.hpp"
