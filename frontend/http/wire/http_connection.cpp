#include "frontend/http/wire/http_connection.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <exception>

namespace tandem::frontend {

namespace asio = boost::asio;

namespace {

/// How often a client is looked at that sends ahead more than is read.
constexpr std::chrono::milliseconds kLookAtPeer{500};
constexpr size_t kKeptBuffer = 4096;  // of an idle connection, at most

void Shrink(std::string& buffer) {
  buffer.clear();
  if (buffer.capacity() > kKeptBuffer) std::string().swap(buffer);
}

}  // namespace

/// A handler's end of a connection; may outlive it.
class HttpConnection::Reply final : public HttpReply {
 public:
  Reply(const std::shared_ptr<HttpConnection>& connection)
      : connection_(connection),
        request_(connection->request_),
        number_(connection->number_),
        peer_(connection->peer_),
        unsent_(connection->unsent_) {}

  void Send(HttpResponse response) override {
    if (const auto connection = connection_.lock()) connection->Send(request_, response);
  }
  void Begin(HttpResponse response, std::string comment) override {
    if (const auto connection = connection_.lock()) {
      connection->Begin(request_, std::move(response), std::move(comment));
    }
  }
  void Write(std::string_view bytes) override {
    if (const auto connection = connection_.lock()) connection->Write(request_, bytes);
  }
  void End() override {
    if (const auto connection = connection_.lock()) connection->End(request_);
  }
  bool gone() const override {
    const auto connection = connection_.lock();
    return connection == nullptr || connection->state_ != State::kAnswering ||
           connection->request_ != request_;
  }
  int64_t unsent() const override { return unsent_->load(); }
  void OnGone(std::function<void()> gone) override {
    const auto connection = connection_.lock();
    if (connection == nullptr || this->gone()) return gone();
    connection->on_gone_ = std::move(gone);
  }
  void OnCrowded(std::function<void()> crowded) override {
    const auto connection = connection_.lock();
    if (connection != nullptr && !gone()) connection->on_crowded_ = std::move(crowded);
  }
  uint64_t connection() const override { return number_; }
  const std::string& peer() const override { return peer_; }

 private:
  const std::weak_ptr<HttpConnection> connection_;
  const uint64_t request_;
  const uint64_t number_;
  const std::string peer_;
  const std::shared_ptr<std::atomic<int64_t>> unsent_;
};

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, uint64_t number, std::string peer,
                               HttpConnectionShare& share)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      number_(number),
      peer_(std::move(peer)),
      share_(share),
      since_(Clock::now()) {}

HttpConnection::~HttpConnection() { ReleaseBody(); }

void HttpConnection::Start() {
  since_ = Clock::now();
  WaitForBytes();
  ArmTimer();
}

void HttpConnection::Refuse(HttpResponse response) {
  response.close = true;
  state_ = State::kAnswering;
  SendWhole(response);
  ArmTimer();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  const bool answering = state_ == State::kAnswering && !answered_;
  state_ = State::kClosed;
  CountUnsent(-unsent());
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel(ignored);
  ReleaseBody();
  on_crowded_ = nullptr;
  const auto gone = std::exchange(on_gone_, nullptr);
  if (answering && gone) gone();
  share_.closed(number_);
}

void HttpConnection::WaitForBytes() {
  if (waits_for_bytes_ || at_end_ || state_ == State::kClosed || waits_for_reader()) return;
  if (state_ == State::kAnswering &&
      static_cast<int64_t>(input_.size()) >= share_.options.pipelined_bytes) {
    return;
  }
  waits_for_bytes_ = true;
  socket_.async_wait(asio::ip::tcp::socket::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->waits_for_bytes_ = false;
                       if (self->state_ == State::kClosed) return;
                       if (error) return self->Break();
                       self->ReadBytes();
                     });
}

void HttpConnection::ReadBytes() {
  boost::system::error_code error;
  const size_t bytes =
      socket_.read_some(asio::buffer(share_.scratch.data(), share_.scratch.size()), error);
  if (error == asio::error::would_block || error == asio::error::interrupted) {
    return WaitForBytes();
  }
  if (error == asio::error::eof) {
    at_end_ = true;
    if (reads_request()) {
      RefuseMalformed(400, kCutShort);
      return ArmTimer();
    }
    // Answers that are complete are sent. Of others nobody knows whether somebody waits for them.
    const bool answered = state_ == State::kIdle || (state_ == State::kAnswering && answered_);
    if (!answered || writing_.empty()) return Close();
    close_when_written_ = true;
    answered_ = true;
    return;
  }
  if (error) return Break();
  if (state_ == State::kLingering) return WaitForBytes();
  if (!close_when_written_) input_.append(share_.scratch.data(), bytes);
  ProcessSafely();
  WaitForBytes();
  ArmTimer();
}

void HttpConnection::ProcessSafely() {
  if (processing_) return;
  processing_ = true;
  try {
    Process();
  } catch (const std::exception& exception) {
    RefuseMalformed(500, fmt::format("the request could not be read: {}", exception.what()));
  }
  processing_ = false;
}

void HttpConnection::Process() {
  while (!close_when_written_ &&
         (state_ == State::kIdle || state_ == State::kHead || state_ == State::kBody)) {
    if (input_.empty() || waits_for_reader()) break;
    if (state_ == State::kIdle) {
      state_ = State::kHead;
      since_ = Clock::now();
      reader_ = std::make_unique<RequestReader>(share_.options.request);
    }
    const size_t taken = reader_->Take(input_);
    input_.erase(0, taken);
    switch (reader_->state()) {
      case RequestReader::State::kHead:
        if (taken == 0) return;
        break;
      case RequestReader::State::kRefused:
        return RefuseMalformed(reader_->status(), reader_->message());
      case RequestReader::State::kBody: {
        if (state_ == State::kHead && !TakeHead()) return;
        const auto body = static_cast<int64_t>(reader_->request().body.size());
        share_.body_bytes += body - std::exchange(counted_body_, body);
        if (share_.body_bytes > share_.options.total_body_bytes) {
          return RefuseMalformed(503, "too many long requests are being read: try again later");
        }
        if (taken == 0) return;
        break;
      }
      case RequestReader::State::kDone:
        if (state_ == State::kHead && !TakeHead()) return;
        HandleRequest();
        break;
    }
  }
  if (input_.empty()) Shrink(input_);
}

/// The headers are there. False: they are refused.
bool HttpConnection::TakeHead() {
  const HttpRequest& request = reader_->request();
  ++request_;
  framing_ = {.version = request.version, .keep_alive = request.keep_alive};
  head_request_ = request.method == "HEAD";
  state_ = State::kBody;
  since_ = Clock::now();
  std::optional<HttpResponse> refusal = share_.handler.CheckHead(request, peer_);
  if (!refusal) {
    if (request.expects_continue && reader_->state() == RequestReader::State::kBody) {
      Put("HTTP/1.1 100 Continue\r\n\r\n");
    }
    return true;
  }
  // What comes behind the headers would be read only to be thrown away.
  const bool whole = reader_->state() == RequestReader::State::kDone;
  refusal->close = refusal->close || !whole;
  reader_.reset();
  state_ = State::kAnswering;
  SendWhole(*refusal);
  return false;
}

void HttpConnection::HandleRequest() {
  HttpRequest request = reader_->TakeRequest();
  reader_.reset();
  ReleaseBody();
  state_ = State::kAnswering;
  since_ = Clock::now();
  answered_ = false;
  streaming_ = false;
  share_.handler.Handle(std::move(request), std::make_shared<Reply>(shared_from_this()));
}

void HttpConnection::RefuseMalformed(int status, const std::string& message) {
  if (state_ == State::kClosed) return;
  const HttpRequest request = reader_ == nullptr ? HttpRequest() : reader_->TakeRequest();
  if (state_ == State::kHead) {
    ++request_;
    framing_ = {};
    head_request_ = request.method == "HEAD";
  }
  HttpResponse response = share_.handler.Malformed(status, message, request, peer_);
  reader_.reset();
  ReleaseBody();
  if (state_ == State::kAnswering) {
    if (streaming_ || answered_) return Close();
    if (const auto gone = std::exchange(on_gone_, nullptr)) gone();
  }
  state_ = State::kAnswering;
  response.close = true;
  SendWhole(response);
}

void HttpConnection::Send(uint64_t request, const HttpResponse& response) {
  if (state_ != State::kAnswering || request != request_ || answered_ || streaming_) return;
  SendWhole(response);
  ProcessSafely();
  WaitForBytes();
  ArmTimer();
}

void HttpConnection::SendWhole(const HttpResponse& response) {
  if (response.close) framing_.keep_alive = false;
  framing_.streams = false;
  Put(HttpHead(response, framing_));
  if (!head_request_) Put(response.body);
  FinishAnswer();
}

void HttpConnection::Begin(uint64_t request, HttpResponse response, std::string comment) {
  if (state_ != State::kAnswering || request != request_ || answered_ || streaming_) return;
  streaming_ = true;
  head_waits_ = true;
  comment_ = std::move(comment);
  // The end of an answer without a length is the end of the connection, before HTTP/1.1.
  if (framing_.version < 11 || response.close) framing_.keep_alive = false;
  framing_.streams = true;
  const std::string first = std::exchange(response.body, "");
  Put(HttpHead(response, framing_));
  Write(request, first);
  spoken_ = Clock::now();
  Flush();
  ArmTimer();
}

void HttpConnection::Write(uint64_t request, std::string_view bytes) {
  if (state_ != State::kAnswering || request != request_ || answered_ || !streaming_) return;
  if (bytes.empty() || head_request_) return;
  if (framing_.version >= 11) {
    Put(HttpChunk(bytes));
  } else {
    Put(bytes);
  }
  spoken_ = Clock::now();
  Flush();
}

void HttpConnection::End(uint64_t request) {
  if (state_ != State::kAnswering || request != request_ || answered_ || !streaming_) return;
  if (framing_.version >= 11 && !head_request_) Put(kLastHttpChunk);
  streaming_ = false;
  FinishAnswer();
  ProcessSafely();
  WaitForBytes();
  ArmTimer();
}

void HttpConnection::Put(std::string_view bytes) {
  output_ += bytes;
  CountUnsent(static_cast<int64_t>(bytes.size()));
  if (state_ == State::kBody) Flush();
}

void HttpConnection::CountUnsent(int64_t more) {
  unsent_->fetch_add(more);
  share_.unread_bytes += more;
  if (more > 0 && share_.unread_bytes > share_.options.total_unread_bytes) share_.crowded();
}

void HttpConnection::MakeRoom() {
  const bool in_pieces = state_ == State::kAnswering && streaming_ && !answered_;
  const auto crowded = std::exchange(on_crowded_, nullptr);
  if (!in_pieces || crowded == nullptr || head_waits_) return Close();
  // What waits begins and ends with a piece.
  CountUnsent(-static_cast<int64_t>(output_.size()));
  std::string().swap(output_);
  framing_.keep_alive = false;
  crowded();
}

void HttpConnection::Flush() {
  if (!writing_.empty() || output_.empty() || state_ == State::kClosed) return;
  writing_.swap(output_);
  head_waits_ = false;
  written_ = 0;
  progress_ = Clock::now();
  socket_.async_write_some(
      asio::buffer(writing_),
      [self = shared_from_this()](const boost::system::error_code& error, size_t bytes) {
        self->Wrote(error, bytes);
      });
}

void HttpConnection::Wrote(const boost::system::error_code& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return Close();
  written_ += bytes;
  progress_ = Clock::now();
  if (state_ == State::kIdle) since_ = progress_;  // it is not idle before it has its answer
  const bool waited = waits_for_reader();
  CountUnsent(-static_cast<int64_t>(bytes));
  if (written_ < writing_.size()) {
    socket_.async_write_some(asio::buffer(writing_.data() + written_, writing_.size() - written_),
                             [self = shared_from_this()](const boost::system::error_code& next,
                                                         size_t more) { self->Wrote(next, more); });
  } else {
    Shrink(writing_);
    if (!output_.empty()) {
      Flush();
    } else {
      Shrink(output_);
      if (close_when_written_ && answered_) Linger();
    }
  }
  if (waited) {
    ProcessSafely();
    WaitForBytes();
  }
  ArmTimer();
}

void HttpConnection::FinishAnswer() {
  answered_ = true;
  on_gone_ = nullptr;
  on_crowded_ = nullptr;
  comment_.clear();
  if (!framing_.keep_alive) {
    close_when_written_ = true;
    Shrink(input_);
  }
  Flush();
  if (framing_.keep_alive) {
    NextRequest();
  } else if (writing_.empty()) {
    Linger();
  }
}

void HttpConnection::NextRequest() {
  state_ = State::kIdle;
  since_ = Clock::now();
  answered_ = false;
}

void HttpConnection::Linger() {
  boost::system::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  // A connection with unread bytes would be reset, and the client might not see its answer.
  if (at_end_) return Close();
  state_ = State::kLingering;
  since_ = Clock::now();
  WaitForBytes();
}

void HttpConnection::ReleaseBody() { share_.body_bytes -= std::exchange(counted_body_, 0); }

HttpConnection::Clock::time_point HttpConnection::NextDeadline() const {
  const HttpServerOptions& options = share_.options;
  Clock::time_point next = Clock::time_point::max();
  switch (state_) {
    case State::kIdle:
      next = since_ + options.idle_time;
      break;
    case State::kHead:
      next = since_ + options.header_time;
      break;
    case State::kBody:
      next = since_ + options.body_time;
      break;
    case State::kAnswering:
      if (streaming_ && !comment_.empty()) next = spoken_ + options.comment_time;
      if (!waits_for_bytes_) next = std::min(next, Clock::now() + kLookAtPeer);
      break;
    case State::kLingering:
      next = since_ + options.linger_time;
      break;
    case State::kClosed:
      break;
  }
  if (!writing_.empty()) next = std::min(next, progress_ + options.write_time);
  return next;
}

void HttpConnection::ArmTimer() {
  if (state_ == State::kClosed) return;
  const Clock::time_point next = NextDeadline();
  if (next >= timer_at_ || next == Clock::time_point::max()) return;
  timer_at_ = next;
  timer_.expires_at(next);
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error || self->state_ == State::kClosed) return;
    self->timer_at_ = Clock::time_point::max();
    self->CheckTimers();
    self->ArmTimer();
  });
}

void HttpConnection::CheckTimers() {
  const HttpServerOptions& options = share_.options;
  const Clock::time_point now = Clock::now();
  if (!writing_.empty() && now >= progress_ + options.write_time) return Close();
  switch (state_) {
    case State::kIdle:
      if (now >= since_ + options.idle_time) Close();
      return;
    case State::kHead:
      if (now >= since_ + options.header_time) {
        RefuseMalformed(408, "the headers of the request did not come in time");
      }
      return;
    case State::kBody:
      if (now >= since_ + options.body_time) {
        RefuseMalformed(408, "the body of the request did not come in time");
      }
      return;
    case State::kAnswering:
      if (!waits_for_bytes_ && !answered_ && PeerHasClosed()) return Close();
      if (streaming_ && !comment_.empty() && now >= spoken_ + options.comment_time) {
        Write(request_, std::string(comment_));
      }
      return;
    case State::kLingering:
      if (now >= since_ + options.linger_time) Close();
      return;
    case State::kClosed:
      return;
  }
}

bool HttpConnection::PeerHasClosed() {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return true;
  return info.tcpi_state != TCP_ESTABLISHED;
}

}  // namespace tandem::frontend
