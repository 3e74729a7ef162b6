# frozen_string_literal: true

# One connection of an Apache worker: reads requests of the binary protocol (docs/protocols.md, section 4), runs
# the Rack application on them, writes its responses. Knows nothing of other connections, threads or the agent.
#
# What it costs: one read and one write per request and response, and few objects; a hello is about 10 µs of Ruby.
# How the bytes of a response come about is in rack-response.rb.

require_relative 'rack-environment'
require_relative 'rack-input'
require_relative 'rack-response'

module PassengerLoader
  # The worker closed the connection, or its request ended early: nothing to report, nobody to tell.
  class PeerGone < EOFError; end

  # One kept-alive connection of an Apache worker: `receive` a request, `answer` it, and again. It is itself
  # the request's `rack.hijack`, which saves an object per request.
  class Connection
    include Environment
    include Response

    REQUEST_TAG = 0x50535201
    FRAMES = 0xFFFF_FFFF_FFFF_FFFF
    HEADER = 'NNa8Q>'
    HEADER_BYTES = 24
    # Of an environment, for what is to be called after the response.
    ARRAYS = %w[rack.response_finished rack.after_reply].freeze
    # A request without body nearly always fits.
    READ_BYTES = 16_384
    # Bodies up to here are in memory before the application is called.
    BODY_IN_MEMORY = 1 << 20
    # What the application left unread of a body is skipped up to here; above, the connection is closed.
    BODY_SKIPPED = 16 << 20
    PEER_GONE = [Errno::EPIPE, Errno::ECONNRESET, Errno::ENOTCONN].freeze

    attr_reader :io
    # Turn of the loop in which the last request came; the smallest is closed first.
    attr_accessor :last_used

    def initialize(io, server)
      @io = io
      @server = server
      @early_hints = method(:write_early_hints)
      @format = HEADER
      @buffer = String.new(capacity: READ_BYTES)
      @last = false
    end

    # True: a request's head has been read. :wait: there is none. False: the connection is over.
    def receive
      got = @io.read_nonblock(READ_BYTES, @buffer, exception: false)
      return got.nil? ? false : :wait unless got.equal?(@buffer)

      tag, head_bytes, @number, @body_bytes = @pieces = @buffer.unpack(@format)
      @body_at = HEADER_BYTES + head_bytes
      @body_at > @buffer.bytesize ? complete_head : tag == REQUEST_TAG
    rescue TypeError, ArgumentError # even less than the head's beginning has come
      complete_head
    rescue EOFError, *PEER_GONE
      false
    end

    # The number of the request, as the agent spells it.
    def number
      @number.unpack1('Q>')
    end

    # The next response is the last one.
    def retire
      @last = true
    end

    # Runs the application on the received request. True: the connection can take another one.
    def answer(app)
      @sent = @hijacked = false
      @stream = @rest = nil
      @env = environment
      # Now: middleware may turn HEAD into GET for the application's sake.
      @bodyless = @env['REQUEST_METHOD'] == 'HEAD'
      status, headers, body = app.call(@env)
      respond(status, headers, body) unless @hijacked
      ready_for_another?
    rescue PeerGone
      false
    rescue SystemExit, SignalException, NoMemoryError
      raise
    rescue Exception => e # rubocop:disable Lint/RescueException -- a NotImplementedError must not end the process
      @server.log_exception(e, @env)
      answer_failure
    ensure
      finished(status, headers, e)
    end

    # Full hijack: the application gets the socket and writes an HTTP response itself, from its status line
    # on; an empty head tells the worker so.
    def call
      unless @hijacked
        @sent = @hijacked = true
        write(message(LAST | RAW, '', FRAMES))
        @env['rack.hijack_io'] = @io
      end
      @io
    end

    # True once the socket belongs to the application, which closes it.
    def hijacked?
      @hijacked
    end

    # Some bytes of the body, first those that came together with the head.
    def read_some(at_most)
      return @io.readpartial(at_most) unless @rest

      piece = @rest.slice!(0, at_most)
      @rest = nil if @rest.empty?
      piece
    rescue EOFError, *PEER_GONE
      raise PeerGone, 'the request ended before its body was complete'
    end

    def read_exactly(length)
      bytes = String.new(capacity: length)
      bytes << read_some(length - bytes.bytesize) while bytes.bytesize < length
      bytes
    end

    private

    # Few requests come in several pieces, and few are for another site and so short that the format does not fit.
    def complete_head
      @buffer << @io.readpartial(HEADER_BYTES - @buffer.bytesize) while @buffer.bytesize < HEADER_BYTES
      tag, head_bytes, @number, @body_bytes = @buffer.unpack(HEADER)
      @body_at = HEADER_BYTES + head_bytes
      @buffer << @io.readpartial(@body_at - @buffer.bytesize) while @buffer.bytesize < @body_at
      @pieces = nil
      tag == REQUEST_TAG
    rescue EOFError, *PEER_GONE
      false
    end

    def environment
      come = @buffer.bytesize - @body_at
      env = environment_of_request(come)
      # An empty input is in the template already.
      env['rack.input'] = body_input(come) unless @body_bytes.zero? && come.zero?
      env['rack.early_hints'] = @early_hints if env['SERVER_PROTOCOL'] == 'HTTP/2.0'
      env
    end

    def body_input(come)
      @rest = @buffer.byteslice(@body_at, come) unless come.zero?
      return StringIO.new(read_exactly(@body_bytes)) if @body_bytes <= BODY_IN_MEMORY

      kind = @server.rack2? ? RewindableInput : StreamInput
      @stream = kind.new(self, @body_bytes == FRAMES ? nil : @body_bytes)
    end

    # The first attempt does not let go of the interpreter lock, which costs more than most writes.
    def write(string, *more)
      written = more.empty? ? @io.write_nonblock(string, exception: false) : 0
      return if written == string.bytesize

      string = string.byteslice(written..) if written.is_a?(Integer)
      @io.write(string, *more)
    rescue *PEER_GONE
      raise PeerGone
    end

    # A 500 if nothing has been sent, else the cut connection tells the worker.
    def answer_failure
      @io.close if @hijacked
      return false if @sent

      respond(500, { 'content-type' => 'text/plain' }, ["Internal Server Error\n"])
      ready_for_another?
    rescue PeerGone
      false
    end

    def too_much_unread?
      return false unless @stream

      unread = @stream.unread
      unread.nil? || unread > BODY_SKIPPED
    end

    # The next request must begin where this one ended.
    def ready_for_another?
      return false if @last || @hijacked

      @stream&.skip
      @rest.nil?
    end

    # `rack.after_reply` is Puma's older form of the same.
    def finished(status, headers, error)
      @stream&.close
      return unless @env

      callbacks = @env['rack.response_finished']
      replies = @env['rack.after_reply']
      # Arrays that were used are of no use for another request, whatever the application has put in their place.
      @template = nil unless @template && ARRAYS.all? { |name| @template[name].empty? }
      return if (callbacks.nil? || callbacks.empty?) && (replies.nil? || replies.empty?)

      callbacks&.reverse_each { |callback| callback.call(@env, status, headers, error) }
      replies&.each(&:call)
    rescue StandardError => e
      @server.log_exception(e, @env)
    ensure
      @env = @pieces = nil
    end
  end
end
