// Which states may follow which: the law that journals are written under, and held against when read.
#pragma once

#include <optional>
#include <span>

#include "core/session/handoff_types.h"

namespace gpumig {

// Whether `next` may be written after `previous` (none: as the first record) to the journal of `side`.
// Errors: kDamaged, the text names both states.
Result<void> CheckTransition(Side side, const std::optional<StateRecord>& previous, const StateRecord& next);

// All of a journal's records. Errors: kDamaged, the first transition that breaks the law.
Result<void> CheckRecords(Side side, std::span<const StateRecord> records);

// Two journals of one migration side by side, whenever they are read: no attempt was both taken back by the source and
// started by the target, none was started that the source did not release. Errors: kDamaged
Result<void> CheckAgreement(std::span<const StateRecord> source, std::span<const StateRecord> target);

}  // namespace gpumig
