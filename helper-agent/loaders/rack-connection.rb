# frozen_string_literal: true

# One connection of an Apache worker: reads requests of the binary protocol (docs/protocols.md, section 4), runs
# the Rack application on them, writes its responses. Knows nothing of other connections, threads or the agent.
#
# What it costs: one read and one write per request and response, and few objects; a hello is about 10 µs of Ruby.

require_relative 'rack-environment'
require_relative 'rack-input'

module PassengerLoader
  # The worker closed the connection, or its request ended early: nothing to report, nobody to tell.
  class PeerGone < EOFError; end

  # One kept-alive connection of an Apache worker: `receive` a request, `answer` it, and again. It is itself
  # the request's `rack.hijack`, which saves an object per request.
  class Connection
    include Environment

    REQUEST_TAG = 0x50535201
    RESPONSE_TAG = 0x50535300
    LAST = 1
    RAW = 2
    INTERIM = 4
    FRAMES = 0xFFFF_FFFF_FFFF_FFFF
    HEADER = 'NNQ>Q>'
    HEADER_BYTES = 24
    # A request without body nearly always fits.
    READ_BYTES = 16_384
    # Bodies up to here are in memory before the application is called.
    BODY_IN_MEMORY = 1 << 20
    # What the application left unread of a body is skipped up to here; above, the connection is closed.
    BODY_SKIPPED = 16 << 20
    # Up to here, copying into one string is cheaper than handing the kernel several.
    ONE_WRITE = 65_536
    PEER_GONE = [Errno::EPIPE, Errno::ECONNRESET, Errno::ENOTCONN].freeze
    OLD_WORK_NAME = 'X-Passenger-Request-OOB-Work'
    # What it looks like in a head; usual spellings only, which is faster than any.
    WORK_HEADER = /-(?:OOB|oob|Oob)-/

    attr_reader :io, :number
    # Turn of the loop in which the last request came; the smallest is closed first.
    attr_accessor :last_used

    def initialize(io, server)
      @io = io
      @server = server
      @early_hints = method(:write_early_hints)
      @buffer = String.new(capacity: READ_BYTES)
      @last = false
    end

    # True: a request's head has been read. :wait: there is none. False: the connection is over.
    def receive
      case @io.read_nonblock(READ_BYTES, @buffer, exception: false)
      when :wait_readable then return :wait
      when nil then return false
      end
      @buffer << @io.readpartial(HEADER_BYTES - @buffer.bytesize) while @buffer.bytesize < HEADER_BYTES
      tag, @head_bytes, @number, @body_bytes = @buffer.unpack(HEADER)
      @body_at = HEADER_BYTES + @head_bytes
      @buffer << @io.readpartial(@body_at - @buffer.bytesize) while @buffer.bytesize < @body_at
      tag == REQUEST_TAG
    rescue EOFError, *PEER_GONE
      false
    end

    # The next response is the last one.
    def retire
      @last = true
    end

    # Runs the application on the received request. True: the connection can take another one.
    def answer(app)
      @sent = @hijacked = @bodyless = false
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
        write([RESPONSE_TAG | LAST | RAW, 0, @number, FRAMES].pack(HEADER))
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

    def environment
      env = environment_of_request
      env['rack.input'] = @input = body_input
      env['rack.errors'] = $stderr
      env['rack.multithread'] = true if @server.threaded?
      env['rack.hijack'] = self
      env['rack.early_hints'] = @early_hints if env['SERVER_PROTOCOL'] == 'HTTP/2.0'
      env['rack.response_finished'] = []
      env['rack.after_reply'] = []
      env
    end

    def body_input
      come = @buffer.bytesize - @body_at
      return StringIO.new(String.new) if @body_bytes.zero? && come.zero?

      @rest = @buffer.byteslice(@body_at, come) unless come.zero?
      return StringIO.new(read_exactly(@body_bytes)) if @body_bytes <= BODY_IN_MEMORY

      kind = @server.rack2? ? RewindableInput : StreamInput
      @stream = kind.new(self, @body_bytes == FRAMES ? nil : @body_bytes)
    end

    def respond(status, headers, body)
      head = status.to_s.b
      hijack = fill_head(head, headers)
      hijack ? hand_over(head, hijack) : write_response(head, status.to_i, headers, body)
    ensure
      body.close if body.respond_to?(:close)
    end

    # Appends names and values; returns the partial hijack if there is one.
    def fill_head(head, headers)
      hijack = nil
      fields = 0
      headers.each do |name, value|
        if value.is_a?(String) && !value.include?("\n")
          head << "\0" << name << "\0" << (value.ascii_only? ? value : value.b)
          fields += 1
        elsif name == 'rack.hijack'
          hijack = value
        else
          (value.is_a?(Array) ? value : value.to_s.split("\n")).each do |line|
            head << "\0" << name << "\0" << line.to_s.b
            fields += 1
          end
        end
      end
      # A NUL inside a name or value would pass for another field.
      raise ArgumentError, 'a response header contains a NUL byte' if head.count("\0") != fields * 2

      take_orders(head) if head.include?("\0!~") || head.match?(WORK_HEADER)
      hijack
    end

    # Headers that begin with `!~`, and the older name of one, are for us and not for the client.
    def take_orders(head)
      status, *fields = head.split("\0", -1)
      orders, rest = fields.each_slice(2).partition { |name, _| name.start_with?('!~') || name.casecmp?(OLD_WORK_NAME) }
      return if orders.empty? # it was a value

      @server.request_out_of_band_work if orders.any? { |name, _| name.match?(/-OOB-Work\z/i) }
      head.replace([status, *rest.flatten].join("\0"))
    end

    # `rack.early_hints`: a response before the response, of status 103. Browsers heed it over HTTP/2 alone, and
    # some older clients take it for the response.
    def write_early_hints(headers)
      return if @sent

      head = +'103'
      fill_head(head, headers)
      write([RESPONSE_TAG | INTERIM, head.bytesize, @number, 0].pack(HEADER) << head)
    end

    # The bytes before the body.
    def start(head, length)
      @sent = true
      @last ||= @server.stopping? || too_much_unread?
      [@last ? RESPONSE_TAG | LAST : RESPONSE_TAG, head.bytesize, @number, length].pack(HEADER) << head
    end

    def write_response(head, status, headers, body)
      if @bodyless || status == 204 || status == 304
        write(start(head, 0))
      elsif body.respond_to?(:to_ary) && (chunks = body.to_ary) # nil: Rails, for a file
        write_array(head, chunks)
      elsif body.respond_to?(:to_path) && File.file?(body.to_path)
        write_file(head, body.to_path)
      elsif body.respond_to?(:each)
        length = headers['content-length'] || headers['Content-Length']
        length ? write_counted(head, Integer(length, 10), body) : write_frames(head, body)
      else
        hand_over(head, body)
      end
    end

    def write_array(head, chunks)
      length = chunks.sum(&:bytesize)
      message = start(head, length)
      return write(message, *chunks) if length > ONE_WRITE

      chunks.each { |chunk| message << (chunk.ascii_only? ? chunk : chunk.b) }
      write(message)
    end

    def write_file(head, path)
      File.open(path, 'rb') do |file|
        length = file.size
        write(start(head, length))
        copied = IO.copy_stream(file, @io, length)
        raise EOFError, "#{path} became shorter while it was sent" if copied != length
      end
    rescue *PEER_GONE
      raise PeerGone
    end

    def write_counted(head, left, body)
      message = start(head, left)
      body.each do |chunk|
        left -= chunk.bytesize
        raise ArgumentError, 'the body is longer than its Content-Length' if left.negative?

        write_after(message, chunk)
      end
      write(message) unless message.empty?
      raise ArgumentError, 'the body is shorter than its Content-Length' if left.positive?
    end

    def write_frames(head, body)
      message = start(head, FRAMES)
      body.each do |chunk|
        write_after(message << [chunk.bytesize].pack('N'), chunk) unless chunk.empty?
      end
      write(message << "\0\0\0\0")
    end

    # Writes what is pending and a chunk at once, so that the head travels with the first chunk.
    def write_after(pending, chunk)
      if chunk.bytesize <= ONE_WRITE
        write(pending << (chunk.ascii_only? ? chunk : chunk.b))
      else
        write(pending, chunk)
      end
      pending.clear
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

    # Partial hijack and Rack 3's streaming bodies: the socket is the application's from here on.
    def hand_over(head, taker)
      @sent = @hijacked = true
      write([RESPONSE_TAG | LAST | RAW, head.bytesize, @number, FRAMES].pack(HEADER) << head)
      taker.call(@io)
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

      @env['rack.response_finished']&.reverse_each { |callback| callback.call(@env, status, headers, error) }
      @env['rack.after_reply']&.each(&:call)
    rescue StandardError => e
      @server.log_exception(e, @env)
    ensure
      @env = @input = nil
    end
  end
end
