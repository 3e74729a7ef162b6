# frozen_string_literal: true

# Loads one Rack application (Rack 2 or 3) and serves it to Apache's workers.
#
# Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
# descriptor 4; docs/protocols.md, section 4, is the contract. From top to bottom: the API for applications,
# the control socket, a request's body, one connection, the loop over all connections, loading.
#
# Only `socket` is required before Bundler has spoken: any default gem activated earlier (stringio, tempfile…)
# could be another version than the one in the application's Gemfile.lock.

require 'socket'

# What applications may call; the rest of the original's API would do nothing here.
module PhusionPassenger
  @callbacks = Hash.new { |all, name| all[name] = [] }

  class << self
    # How many requests this process takes at once; nil = as many as it has threads. For applications that
    # hijack connections and answer from threads of their own. Read once, when loading is done.
    attr_accessor :advertised_concurrency_level

    # Events: :starting_worker_process (gets `forked`), :stopping_worker_process,
    # :starting_request_handler_thread.
    def on_event(name, &callback)
      @callbacks[name] << callback
    end

    def call_event(name, *args)
      @callbacks[name].each { |callback| callback.call(*args) }
    end

    # Old applications call it when they find this module.
    def install_framework_extensions!(*); end
  end
end

module PassengerLoader
  # The worker closed the connection, or its request ended early: nothing to report, nobody to tell.
  class PeerGone < EOFError; end

  # Lines to and from the agent.
  class Control
    attr_reader :io

    def initialize(descriptor)
      @io = UNIXSocket.for_fd(descriptor)
      @io.close_on_exec = true
      @input = String.new
    end

    # Sends one line. That the agent is gone is noticed by reading, not here. One system call and no Ruby
    # lock, because signal handlers call it.
    def say(*words)
      @io.syswrite("#{words.join(' ')}\n")
    rescue SystemCallError, IOError
      nil
    end

    def error(step, text)
      text = text.dup.force_encoding(Encoding::UTF_8).scrub('?')
      text = "#{text[0, 1500]}…" if text.length > 1500
      say('error', step, text.gsub(/[\\\n\r]/, '\\' => '\\\\', "\n" => '\\n', "\r" => '\\r'))
    end

    # The lines that have arrived; a final nil means that it is time to go.
    def lines
      while (read = @io.read_nonblock(4096, exception: false)).is_a?(String)
        @input << read
      end
      lines = @input.slice!(/\A.*\n/m).to_s.split("\n")
      read.nil? ? lines << nil : lines
    rescue SystemCallError
      [nil]
    end

    # SIGTERM's way to the loop: this end sees "end of file", which wakes `select` without a second pipe.
    def end_of_input
      @io.shutdown(Socket::SHUT_RD)
    rescue SystemCallError, IOError
      nil
    end
  end

  # A body that is too large for memory, or of unknown length: read from the connection as the application
  # asks for it. Forward only, as Rack 3 allows; `Rack::RewindableInput` around it gives Rack 2 its `rewind`.
  class StreamInput
    # `length` nil = frames until one of length 0.
    def initialize(connection, length)
      @connection = connection
      @framed = length.nil?
      @left = length || 0
      @ended = false
      @ahead = String.new
    end

    # Bytes the peer may still send; nil = unknown.
    def unread
      return 0 if @ended

      @framed ? nil : @left
    end

    def read(length = nil, buffer = nil)
      buffer = buffer ? buffer.clear.force_encoding(Encoding::BINARY) : String.new
      buffer << @ahead.slice!(0, length || @ahead.bytesize)
      until length && buffer.bytesize >= length
        piece = take(length ? length - buffer.bytesize : READ_BYTES) or break
        buffer << piece
      end
      buffer if length.nil? || length.zero? || !buffer.empty?
    end

    def gets
      until (newline = @ahead.index("\n"))
        piece = take(READ_BYTES) or break
        @ahead << piece
      end
      line = @ahead.slice!(0, newline ? newline + 1 : @ahead.bytesize)
      line unless line.empty?
    end

    def each
      while (line = gets)
        yield line
      end
    end

    def close; end

    # Reads to the end and throws away.
    def skip
      nil while take(READ_BYTES)
    end

    private

    READ_BYTES = 65_536

    def take(at_most)
      next_frame if @framed && @left.zero? && !@ended
      return if @ended

      piece = @connection.read_some(at_most < @left ? at_most : @left)
      @left -= piece.bytesize
      @ended = true if @left.zero? && !@framed
      piece
    end

    def next_frame
      @left = @connection.read_exactly(4).unpack1('N')
      @ended = @left.zero?
    end
  end

  # One kept-alive connection of an Apache worker: `receive` a request, `answer` it, and again. It is itself
  # the request's `rack.hijack`, which saves an object per request.
  class Connection
    REQUEST_TAG = 0x50535201
    RESPONSE_TAG = 0x50535300
    LAST = 1
    RAW = 2
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
    RACK_VERSION = [1, 3].freeze

    attr_reader :io, :number
    # Turn of the loop in which the last request came; the smallest is closed first.
    attr_accessor :last_used

    def initialize(io, server)
      @io = io
      @server = server
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
      @sent = @hijacked = false
      @stream = @rest = nil
      @env = environment
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
      pieces = @buffer.byteslice(HEADER_BYTES, @head_bytes).split("\0", -1)
      # A splat lives on the machine stack, which a huge environment would overrun.
      env = pieces.size < 4096 ? Hash[*pieces] : pieces.each_slice(2).to_h
      env['rack.version'] = RACK_VERSION
      env['rack.input'] = @input = body_input
      env['rack.errors'] = $stderr
      env['rack.url_scheme'] = %w[on 1].include?(env['HTTPS']) ? 'https' : 'http'
      env['rack.multithread'] = @server.threaded?
      env['rack.multiprocess'] = true
      env['rack.run_once'] = false
      env['rack.hijack?'] = true
      env['rack.hijack'] = self
      env['rack.response_finished'] = []
      env
    end

    def body_input
      come = @buffer.bytesize - @body_at
      return StringIO.new(String.new) if @body_bytes.zero? && come.zero?

      @rest = @buffer.byteslice(@body_at, come) unless come.zero?
      return StringIO.new(read_exactly(@body_bytes)) if @body_bytes <= BODY_IN_MEMORY

      @stream = StreamInput.new(self, @body_bytes == FRAMES ? nil : @body_bytes)
      @server.rack2? ? Rack::RewindableInput.new(@stream) : @stream
    end

    def respond(status, headers, body)
      head = String.new(status.to_s, capacity: 512, encoding: Encoding::BINARY)
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

      hijack
    end

    # The bytes before the body.
    def start(head, length)
      @sent = true
      @last ||= @server.stopping? || too_much_unread?
      [@last ? RESPONSE_TAG | LAST : RESPONSE_TAG, head.bytesize, @number, length].pack(HEADER) << head
    end

    def write_response(head, status, headers, body)
      if status == 204 || status == 304 || @env['REQUEST_METHOD'] == 'HEAD'
        write(start(head, 0))
      elsif body.respond_to?(:to_ary)
        write_array(head, body.to_ary)
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

    def write(*strings)
      @io.write(*strings)
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

    def finished(status, headers, error)
      @input&.close
      @env&.fetch('rack.response_finished')&.reverse_each { |callback| callback.call(@env, status, headers, error) }
    rescue StandardError => e
      @server.log_exception(e, @env)
    ensure
      @env = @input = nil
    end
  end

  # Waits for requests on all connections and runs them: in the loop itself, or in threads if several are wanted.
  class Server
    def initialize(app, control, listener, settings)
      @app = app
      @control = control
      @listener = listener
      @peer_uid = settings.peer_uid
      @threads = settings.threads
      @rack2 = Rack.release.to_i < 3
      @limit = [32, 2 * @threads].max
      @connections = {}.compare_by_identity
      @sources = [control.io, listener]
      @turn = 0
      @stopping = false
      start_threads if threaded?
    end

    def rack2?
      @rack2
    end

    def stopping?
      @stopping
    end

    def threaded?
      @threads > 1
    end

    def run
      turn until @stopping
      drain
    end

    def log_exception(error, env)
      where = env && "#{env['REQUEST_METHOD']} #{env['REQUEST_URI']}: "
      $stderr.write("#{where}#{error.full_message(highlight: false)}")
    end

    # In a child the application forked: let go of what belongs to the parent, without disturbing it.
    def forget
      [@control.io, @listener, @wake_in, @wake_out, *@connections.keys].each { |io| io&.close }
      @connections.clear
    end

    private

    def turn
      ready, = IO.select(@sources)
      @turn += 1
      told = false
      ready.each do |io|
        if (connection = @connections[io]) then serve(connection)
        elsif io.equal?(@listener) then accept_all
        elsif io.equal?(@control.io) then told = true
        elsif io.equal?(@wake_out) then take_back
        end
      end
      obey if told
    end

    def serve(connection)
      case connection.receive
      when true then execute(connection)
      when false then drop(connection)
      end
    end

    def execute(connection)
      connection.last_used = @turn
      return hand_to_thread(connection) if threaded?

      drop(connection) unless connection.answer(@app)
    end

    def drop(connection)
      @connections.delete(connection.io)
      @sources.delete(connection.io)
      connection.io.close unless connection.hijacked?
    end

    def accept_all
      loop do
        io = @listener.accept_nonblock(exception: false)
        return if io == :wait_readable

        admit(io)
      end
    rescue Errno::EINVAL # after shutdown: none left
      nil
    rescue Errno::ECONNABORTED
      retry
    end

    def admit(io)
      uid, = io.getpeereid
      return io.close unless uid.zero? || uid == @peer_uid

      make_room if @connections.size >= @limit
      connection = Connection.new(io, self)
      connection.last_used = @turn
      @connections[io] = connection
      @sources << io
      serve(connection)
    end

    # Closes the connection that has been idle longest, without losing a request that is on its way.
    def make_room
      idle = @connections.each_value.reject { |connection| busy?(connection) }.min_by(&:last_used)
      return unless idle

      wind_up(idle) ? execute(idle) : drop(idle)
    end

    # True: a last request had arrived. Once reading is shut down the worker's next send fails before it has
    # delivered anything, so that the worker can safely go elsewhere; what it sent before is still readable.
    def wind_up(connection)
      connection.retire
      received = connection.receive
      if received == :wait
        connection.io.shutdown(Socket::SHUT_RD)
        received = connection.receive
      end
      received == true
    end

    def obey
      @control.lines.each do |line|
        case line
        when nil, 'stop' then @stopping = true
        when /\Abusy\? (.+)/ then report(Regexp.last_match(1))
        end
      end
    end

    # Answers only when every request sent before the question has been read.
    def report(token)
      accept_all
      ready, = IO.select(@connections.keys, nil, nil, 0)
      ready&.each { |io| @connections[io]&.then { |connection| serve(connection) unless busy?(connection) } }
      take_back if threaded?
      @control.say('busy', token, *executing)
    end

    # No new connection, then one last look at each.
    def drain
      @listener.shutdown(Socket::SHUT_RD)
      accept_all
      last, over = @connections.values.reject { |connection| busy?(connection) }.partition { |one| wind_up(one) }
      over.each { |connection| drop(connection) }
      last.each { |connection| execute(connection) }
      finish_threads if threaded?
    end

    # --- threads: the loop reads a request's head, a thread does the rest, a pipe wakes the loop ---

    def start_threads
      @executing = {}.compare_by_identity
      @queue = Thread::Queue.new
      @done = Thread::Queue.new
      @wake_out, @wake_in = IO.pipe
      @sources << @wake_out
      @pool = Array.new(@threads) { Thread.new { work } }
    end

    def work
      PhusionPassenger.call_event(:starting_request_handler_thread)
      while (connection = @queue.pop)
        again = connection.answer(@app)
        @done << [connection, again]
        @wake_in.write_nonblock('.', exception: false)
      end
    end

    def hand_to_thread(connection)
      @executing[connection] = connection.number
      @sources.delete(connection.io)
      @queue << connection
    end

    def take_back
      @wake_out.read_nonblock(4096, exception: false)
      until @done.empty?
        connection, again = @done.pop
        @executing.delete(connection)
        again ? @sources << connection.io : drop(connection)
      end
    end

    def finish_threads
      @queue.close
      @pool.each(&:join)
      take_back
      @connections.each_value.select { |connection| wind_up(connection) }.each { |last| last.answer(@app) }
    end

    def busy?(connection)
      threaded? && @executing.key?(connection)
    end

    def executing
      threaded? ? @executing.values : []
    end
  end

  # What the agent wants, from the environment, which is then cleaned: the application's children have no use for it.
  Settings = Struct.new(:app_root, :startup_file, :group_name, :peer_uid, :threads) do
    def self.take
      new(ENV.delete('PASSENGER_APP_ROOT') || Dir.pwd,
          ENV.delete('PASSENGER_STARTUP_FILE') || File.join(Dir.pwd, 'config.ru'),
          ENV.delete('PASSENGER_APP_GROUP_NAME').to_s,
          ENV.delete('PASSENGER_PEER_UID').to_i,
          [ENV.delete('PASSENGER_THREADS').to_i, 1].max)
    end
  end

  class << self
    def main
      $stdout.sync = $stderr.sync = true
      settings = Settings.take
      control = Control.new(3)
      listener = UNIXServer.for_fd(4)
      listener.close_on_exec = true
      $0 = "Passenger RubyApp: #{settings.group_name}"

      control.say('step', 'load')
      app = load_app(settings, control)
      control.say('step', 'listen')
      serve(app, control, listener, settings)
    end

    private

    def load_app(settings, control)
      set_up_load_path
      require 'stringio'
      require_rack
      app = build(settings.startup_file)
      PhusionPassenger.call_event(:starting_worker_process, false)
      app
    rescue Exception => e # rubocop:disable Lint/RescueException -- whatever it was, the administrator must read it
      $stderr.write(e.full_message(highlight: false))
      control.error('load', explain(e, settings.startup_file))
      exit!(1)
    end

    # The first that exists, as the original does it.
    def set_up_load_path
      if File.exist?('config/setup_load_paths.rb')
        require File.expand_path('config/setup_load_paths.rb')
      elsif File.exist?('.bundle/environment.rb')
        require File.expand_path('.bundle/environment.rb')
      elsif ENV['BUNDLE_GEMFILE'] || File.exist?('Gemfile') || File.exist?('gems.rb')
        require 'bundler/setup'
      end
    rescue LoadError => e
      raise unless e.path == 'bundler/setup'

      warn 'The application has a Gemfile but Bundler is not installed: it runs with the gems of the system.'
    end

    def require_rack
      require 'rack'
    rescue LoadError => e
      raise unless e.path == 'rack'

      raise LoadError, "The gem 'rack' was not found by #{RbConfig.ruby}: add it to the Gemfile, or install it " \
                       "with 'gem install rack' or the package ruby-rack"
    end

    # Rack 2's parse_file returns [app, options], Rack 3's the app.
    def build(file)
      built = if file.end_with?('.ru')
                Rack::Builder.parse_file(file)
              else
                Rack::Builder.new_from_string(File.read(file), file)
              end
      built.is_a?(Array) ? built.first : built
    end

    def explain(error, file)
      return "#{file} called exit (status #{error.status}) while it was loaded" if error.is_a?(SystemExit)

      place = error.backtrace_locations&.find { |location| !location.path.start_with?('<internal', __FILE__) }
      at = place && " (#{place.path}:#{place.lineno})"
      "#{error.class} while loading #{file}: #{error.message.lines.first.to_s.chomp}#{at}"
    end

    def serve(app, control, listener, settings)
      server = Server.new(app, control, listener, settings)
      handle_signals(control)
      let_go_in_children(server)
      concurrency = PhusionPassenger.advertised_concurrency_level || settings.threads
      control.say('ready', "concurrency=#{concurrency}", 'protocol=binary')
      server.run
      PhusionPassenger.call_event(:stopping_worker_process)
    end

    def handle_signals(control)
      trap('TERM') { control.end_of_input }
      trap('USR1') { control.say('leave') }
      trap('HUP') { nil }
      trap('QUIT') do
        $stderr.write(Thread.list.map { |thread| "#{thread.inspect}\n  #{thread.backtrace&.join("\n  ")}\n" }.join)
      end
    end

    # Close-on-exec does nothing for a plain `fork`: a child that kept our sockets would make a dead process
    # look alive, and its SIGTERM would shut down the parent's control socket. Ruby 3.1 and later.
    def let_go_in_children(server)
      Process.singleton_class.prepend(Module.new do
        define_method(:_fork) do
          pid = super()
          if pid.zero?
            %w[TERM USR1 HUP QUIT].each { |name| trap(name, 'DEFAULT') }
            server.forget
          end
          pid
        end
      end)
    end
  end
end

PassengerLoader.main
