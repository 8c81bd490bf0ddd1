#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "frontend/http/wire/http_handler.h"

namespace tandem::frontend {

class HttpConnection;

/// What connections share. All on the server's thread.
struct HttpConnectionShare {
  const HttpServerOptions& options;
  HttpHandler& handler;
  std::function<void(uint64_t number)> closed;
  std::string scratch = std::string(size_t{64} << 10, '\0');  // what is read goes here first
  int64_t body_bytes = 0;                                     // of requests that are being read
  int64_t unread_bytes = 0;                                   // of answers
  std::function<void()> crowded;  // called where these are more than may be
};

/// One client: reads a request, has it answered, and goes on with the next one. Kept alive by what
/// it waits for. Thread safety: the server's thread.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Clock = std::chrono::steady_clock;

  HttpConnection(boost::asio::ip::tcp::socket socket, uint64_t number, std::string peer,
                 HttpConnectionShare& share);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  void Start();
  /// Sends a response to whatever comes, and closes.
  void Refuse(HttpResponse response);
  void Close();
  /// Ends what it is doing, so that less waits for it.
  void MakeRoom();
  int64_t unsent() const { return unsent_->load(); }
  const std::string& peer() const { return peer_; }
  /// Whether an answer is being made or sent.
  bool busy() const {
    return (state_ == State::kAnswering && !answered_) || !writing_.empty() || !output_.empty();
  }

 private:
  class Reply;
  enum class State : uint8_t {
    kIdle,       // waits for a request
    kHead,       // some of a request is there
    kBody,       // its headers are
    kAnswering,  // it is with the handler
    kLingering,  // the last answer is written; what the client still sends is thrown away
    kClosed,
  };

  // Of a Reply, whose number is that of the request.
  void Send(uint64_t request, const HttpResponse& response);
  void Begin(uint64_t request, HttpResponse response, std::string comment);
  void Write(uint64_t request, std::string_view bytes);
  void End(uint64_t request);

  static constexpr const char* kCutShort = "the connection ended in the middle of the request";
  bool reads_request() const { return state_ == State::kHead || state_ == State::kBody; }
  /// The connection has failed. Nobody hears why a request is refused then, but it is counted.
  void Break() {
    if (reads_request()) RefuseMalformed(400, kCutShort);
    Close();
  }
  void WaitForBytes();
  void ReadBytes();
  /// Goes on with what has come.
  void Process();
  /// Whether the next request waits until the client has read more of its answers.
  bool waits_for_reader() const {
    return state_ == State::kIdle && unsent_->load() > share_.options.unread_bytes;
  }
  void ProcessSafely();
  bool TakeHead();
  void HandleRequest();
  void RefuseMalformed(int status, const std::string& message);
  void SendWhole(const HttpResponse& response);
  void Put(std::string_view bytes);
  void CountUnsent(int64_t more);
  void Flush();
  void Wrote(const boost::system::error_code& error, size_t bytes);
  /// The answer to the request is complete, but for bytes that are not sent.
  void FinishAnswer();
  void NextRequest();
  void Linger();
  void ReleaseBody();

  /// Timers are looked at when the earliest is due; what is put off meanwhile waits again.
  Clock::time_point NextDeadline() const;
  void ArmTimer();
  void CheckTimers();
  bool PeerHasClosed();

  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  const uint64_t number_;
  const std::string peer_;
  HttpConnectionShare& share_;

  State state_ = State::kIdle;
  std::string input_;                      // read, and not taken
  std::unique_ptr<RequestReader> reader_;  // of the request that is being read
  int64_t counted_body_ = 0;               // in the share's body_bytes
  bool waits_for_bytes_ = false;
  bool at_end_ = false;  // the client sends no more
  bool processing_ = false;

  uint64_t request_ = 0;  // counts them
  HttpFraming framing_;
  bool head_request_ = false;  // its answer has no body
  bool streaming_ = false;
  bool answered_ = false;  // the answer is complete
  std::string comment_;
  std::function<void()> on_gone_;
  std::function<void()> on_crowded_;

  std::string output_;       // waits
  bool head_waits_ = false;  // in it: that of the answer which comes in pieces
  std::string writing_;      // is being sent
  size_t written_ = 0;       // of writing_
  bool close_when_written_ = false;
  const std::shared_ptr<std::atomic<int64_t>> unsent_ = std::make_shared<std::atomic<int64_t>>(0);

  Clock::time_point since_;                                // of the state
  Clock::time_point progress_;                             // of what is being sent
  Clock::time_point spoken_;                               // the stream said something
  Clock::time_point timer_at_ = Clock::time_point::max();  // where the timer is
};

}  // namespace tandem::frontend
