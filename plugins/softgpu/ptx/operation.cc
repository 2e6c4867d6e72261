#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {

OperationTable::OperationTable() {
  AddIntegerOperations(this);
  AddBitOperations(this);
  AddFloatOperations(this);
  AddRoundedOperations(this);
  AddPredicateOperations(this);
  AddConversions(this);
  AddIntegerConversions(this);
  AddHalfOperations(this);
  AddWarpOperations(this);
}

const OperationTable& OperationTable::Get() {
  static const OperationTable table;
  return table;
}

const Operation* OperationTable::Find(std::string_view name) const {
  const auto found = operations_.find(std::string(name));
  return found == operations_.end() ? nullptr : &found->second;
}

}  // namespace softgpu::ptx
