# frozen_string_literal: true

# `rack.input` where it is not a plain StringIO: of requests without a body, and of long bodies, of which nothing is read
# before the application asks for it.

module PassengerLoader
  # That of all requests without a body: nothing an application does to it changes it.
  def self.empty_input
    @empty_input ||= Class.new(StringIO) do
      %i[close close_read close_write].each { |name| define_method(name) { nil } }
      %i[set_encoding binmode reopen].each { |name| define_method(name) { |*, **| self } }
      %i[seek pos= lineno=].each { |name| define_method(name) { |*| 0 } }
      %i[ungetc ungetbyte string= truncate].each { |name| define_method(name) { |_| nil } }
    end.new(String.new.freeze)
  end

  # A body that is too large for memory, or of unknown length: read from the connection as the application
  # asks for it. Forward only, as Rack 3 allows.
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
      return to_enum unless block_given?

      while (line = gets)
        yield line
      end
    end

    def close; end

    # Reads to the end and throws away.
    def skip
      nil while draw(READ_BYTES)
    end

    private

    READ_BYTES = 65_536

    # The next bytes for the application.
    def take(at_most)
      draw(at_most)
    end

    # The next bytes of the connection.
    def draw(at_most)
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

  # The same for Rack 2, which demands that a body can be read again: what has been read is kept in a file.
  # `Rack::RewindableInput` would wait for the whole body first, and leaves its files behind when a process is killed.
  class RewindableInput < StreamInput
    def initialize(connection, length)
      super
      @copy = nil
      @kept = @at = 0
    end

    def rewind
      @ahead.clear # it is in the copy
      @at = 0
    end

    def close
      @copy&.close
    end

    private

    def take(at_most)
      return again(at_most) if @at < @kept

      piece = draw(at_most) or return
      (@copy ||= nameless_file).write(piece)
      @at = @kept += piece.bytesize
      piece
    end

    def again(at_most)
      piece = @copy.pread([at_most, @kept - @at].min, @at)
      @at += piece.bytesize
      piece
    end

    # Nothing is left of it, however this process ends.
    def nameless_file
      require 'tmpdir'
      directory = Dir.tmpdir # the first that is there of TMPDIR and the usual ones
      file = begin
        File.open(directory, File::RDWR | File::TMPFILE | File::BINARY, 0o600)
      rescue Errno::EOPNOTSUPP, Errno::EISDIR # not every filesystem can
        require 'tempfile'
        Tempfile.create('passenger', directory, binmode: true).tap { |named| File.unlink(named.path) }
      end
      file.sync = true # it is read beside Ruby's buffer
      file
    end
  end
end
