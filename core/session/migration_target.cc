#include "core/session/migration_target.h"

#include <algorithm>
#include <utility>

namespace gpumig {
namespace ev = target_event;

Result<std::unique_ptr<MigrationTarget>> MigrationTarget::Start(Binding binding, const Ports& ports,
                                                                const TargetLimits& limits) {
  std::unique_ptr<MigrationTarget> target(new MigrationTarget(std::move(binding), ports, limits));
  const CopyState copy = GPUMIG_TRY(ports.workload.Look(), "look at what is left of a prepared workload");
  std::vector<News> news;
  {
    const std::lock_guard lock(target->mutex_);
    target->Apply(ev::Restarted{copy}, news);
  }
  target->Tell(news);
  target->worker_ = std::thread([raw = target.get()] { raw->WorkUntilStopped(); });
  return target;
}

MigrationTarget::MigrationTarget(Binding binding, const Ports& ports, const TargetLimits& limits)
    : ports_(ports),
      limits_(limits),
      state_(RecoverTarget(binding, ports.journal.id(), ports.journal.records())),
      last_heard_(ports.clock.Now()),
      try_again_at_(last_heard_ + limits.first_pause),
      pause_(limits.first_pause) {}

MigrationTarget::~MigrationTarget() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.request_stop();
    prepare_.request_stop();
  }
  if (worker_.joinable()) worker_.join();
}

Result<Message> MigrationTarget::Handle(const Message& message) {
  ImageStatus image;
  if (message.kind() == MessageKind::kOffer && state().binding.migration == message.migration) {
    image = GPUMIG_TRY(ports_.workload.Missing(message.manifest), "look up what is lacking of the image");
  }
  std::vector<News> news;
  std::unique_lock lock(mutex_);
  if (journal_error_) return *journal_error_;
  TargetStep step = Apply(ev::Received{message, std::move(image)}, news);
  if (!journal_error_ && step.reply) last_heard_ = ports_.clock.Now();
  // Most starts take a few milliseconds: waiting that long saves the source a pause.
  if (!journal_error_ && message.kind() == MessageKind::kRelease && state_.stage == Stage::kAct) {
    changed_.wait_for(lock, limits_.answer_after, [&] { return state_.stage != Stage::kAct || stopping_; });
    if (state_.stage == Stage::kRun) step = Step(state_, ev::Received{message, {}});
  }
  const std::optional<Error> failed = journal_error_;
  lock.unlock();
  Tell(news);
  if (failed) return *failed;
  if (!step.reply) {
    return MakeError(ErrorCode::kFailedPrecondition, "{} of attempt {} was not acted upon: {}", Name(message.kind()),
                     message.attempt, step.ignored);
  }
  return *std::move(step.reply);
}

void MigrationTarget::NoteArrival() {
  const std::lock_guard lock(mutex_);
  last_heard_ = ports_.clock.Now();
}

Result<void> MigrationTarget::Abort() {
  std::vector<News> news;
  std::unique_lock lock(mutex_);
  if (journal_error_) return *journal_error_;
  const TargetStep step = Apply(ev::OperatorAbort{}, news);
  const std::optional<Error> failed = journal_error_;
  const Stage stage = state_.stage;
  lock.unlock();
  Tell(news);
  if (failed) return *failed;
  if (!step.ignored.empty())
    return MakeError(ErrorCode::kFailedPrecondition, "it is at {}: {}", Name(stage), step.ignored);
  return Ok();
}

TargetState MigrationTarget::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::optional<Error> MigrationTarget::journal_error() const {
  const std::lock_guard lock(mutex_);
  return journal_error_;
}

// REQUIRES: mutex_ is held
TargetStep MigrationTarget::Apply(const TargetEvent& event, std::vector<News>& news) {
  TargetStep step = Step(state_, event);
  if (step.record) {
    const Result<void> written = ports_.journal.Append(*step.record);
    if (!written) {
      journal_error_ = written.error();
      step = Step(state_, ev::JournalFailed{*step.record});
    }
  }
  if (step.record || !step.alarm.empty()) news.push_back({step.record, step.alarm});
  state_ = step.state;
  Queue(step);
  changed_.notify_all();
  return step;
}

// REQUIRES: mutex_ is held
void MigrationTarget::Queue(const TargetStep& step) {
  for (const TargetAction action : step.actions) {
    // Whatever comes after a preparation is because that is no longer wanted.
    prepare_.request_stop();
    work_.push_back({action, state_.attempt, state_.manifest});
  }
  if (!step.actions.empty() || step.record) wake_.request_stop();
}

void MigrationTarget::Tell(const std::vector<News>& news) {
  for (const News& item : news) {
    if (item.record) ports_.observer.OnRecord(*item.record);
    if (!item.alarm.empty()) ports_.observer.OnAlarm(item.alarm);
  }
}

void MigrationTarget::WorkUntilStopped() {
  while (true) {
    WaitForWork();
    std::vector<News> news;
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (work_.empty()) {
      PassTime(news);
      lock.unlock();
      Tell(news);
      continue;
    }
    const Work work = work_.front();
    work_.pop_front();
    prepare_ = std::stop_source();
    const bool wanted = work.action != TargetAction::kPrepare || (state_.preparing && state_.attempt == work.attempt);
    lock.unlock();
    if (!wanted) continue;

    const std::optional<TargetEvent> result = Do(work);
    lock.lock();
    if (stopping_ || !result) continue;
    Apply(*result, news);
    try_again_at_ = ports_.clock.Now() + pause_;
    pause_ = std::min(2 * pause_, limits_.longest_pause);
    if (!HasWorkLeft()) pause_ = limits_.first_pause;
    lock.unlock();
    Tell(news);
  }
}

// Until there is something in work_, or a time has come.
void MigrationTarget::WaitForWork() {
  std::unique_lock lock(mutex_);
  if (!work_.empty() || stopping_) return;
  wake_ = std::stop_source();
  const std::stop_token woken = wake_.get_token();
  // Far enough: whatever changes before then wakes it.
  Clock::TimePoint until = ports_.clock.Now() + std::chrono::hours(1);
  if (MayExpire()) until = std::min(until, last_heard_ + limits_.time_to_live);
  if (HasWorkLeft()) until = std::min(until, try_again_at_);
  lock.unlock();
  ports_.clock.WaitUntil(until, woken);
}

// REQUIRES: mutex_ is held
void MigrationTarget::PassTime(std::vector<News>& news) {
  if (journal_error_) return;
  const Clock::TimePoint now = ports_.clock.Now();
  if (MayExpire() && now >= last_heard_ + limits_.time_to_live) Apply(ev::Expired{}, news);
  if (HasWorkLeft() && now >= try_again_at_) Apply(ev::Tick{}, news);
}

bool MigrationTarget::MayExpire() const {
  return !journal_error_ && state_.attempt > 0 && !state_.preparing &&
         (state_.stage == Stage::kNone || state_.stage == Stage::kPrep);
}

// Something that a Tick would try again.
bool MigrationTarget::HasWorkLeft() const {
  if (journal_error_ || state_.preparing || state_.starting || state_.discarding) return false;
  return state_.stage == Stage::kAct || (state_.stage == Stage::kRef && !state_.settled) ||
         (state_.stage == Stage::kPrep && state_.copy == CopyState::kGone);
}

std::optional<TargetEvent> MigrationTarget::Do(const Work& work) {
  switch (work.action) {
    case TargetAction::kPrepare:
      return Prepare(work);
    case TargetAction::kStart:
      return StartCopy();
    case TargetAction::kDiscard:
      return Discard();
    case TargetAction::kStop:
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<TargetEvent> MigrationTarget::Prepare(const Work& work) {
  std::stop_token stop;
  {
    const std::lock_guard lock(mutex_);
    // Asked to stop between being taken from the queue and here.
    if (stopping_ || !state_.preparing || state_.attempt != work.attempt) return std::nullopt;
    stop = prepare_.get_token();
  }
  const Result<TargetReport> prepared = ports_.workload.Prepare(work.manifest, stop);
  if (!prepared) return ev::PrepareFailed{work.attempt, prepared.error().message()};
  return ev::Prepared{work.attempt, prepared->parts};
}

TargetEvent MigrationTarget::StartCopy() {
  const Result<TargetReport> started = ports_.workload.Start();
  if (!started) return ev::StartFailed{started.error().message()};
  return ev::Started{started->parts, started->detail};
}

TargetEvent MigrationTarget::Discard() {
  const Result<void> discarded = ports_.workload.Discard();
  if (!discarded) return ev::DiscardFailed{discarded.error().message()};
  return ev::Discarded{};
}

}  // namespace gpumig
