# frozen_string_literal: true

# The response of one request, as bytes (docs/protocols.md, section 4): head, body, hijacked streams, early hints. Most
# responses are a few headers of plain strings and one string of body; these take the short way, all others the careful one.

module PassengerLoader
  module Response
    TAG = 0x50535300
    LAST = 1
    RAW = 2
    INTERIM = 4
    # Copies strings as bytes, whatever their encodings.
    MESSAGE = 'NNa*Q>a*a*'
    # Up to here, copying into one string is cheaper than handing the kernel several.
    ONE_WRITE = 65_536
    STATUSES = (100..599).to_h { |status| [status, status.to_s.freeze] }.freeze
    # By the number of names and values.
    HEADS = Array.new(65) { |pieces| "a*#{'xa*' * pieces}".freeze if pieces.even? }.freeze
    OLD_WORK_NAME = 'X-Passenger-Request-OOB-Work'
    # What it looks like in a head; usual spellings only, which is faster than any.
    WORK_HEADER = /-(?:OOB|oob|Oob)-/

    private

    def respond(status, headers, body)
      head = plain_head(status, headers)
      hijack = fill_head(head = status.to_s.b, headers) unless head
      hijack ? hand_over(head, hijack) : write_response(head, status.to_i, headers, body)
    ensure
      body.close if body.respond_to?(:close)
    end

    # The head of a response whose headers are strings of one line each, and for the client; nil for others.
    def plain_head(status, headers)
      return unless headers.is_a?(Hash)

      pieces = headers.flatten
      format = HEADS[pieces.size]
      return if format.nil? || pieces.compact!

      head = pieces.unshift(STATUSES[status] || status.to_s).pack(format)
      # "ssenger-" is in a name that `take_orders` knows. Values may be found by all four: then it was not the short way.
      head if head.count("\0\n!") == pieces.size - 1 && !head.include?('ssenger-') && !head.include?('SSENGER-')
    rescue TypeError # a value that is no string
      nil
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
      write(message(INTERIM, head, 0))
    end

    # The bytes of a response's beginning, and of its body's.
    def message(flags, head, length, bytes = '')
      [TAG | flags, head.bytesize, @number, length, head, bytes].pack(MESSAGE)
    end

    # The bytes before the body, and its first.
    def start(head, length, bytes = '')
      @sent = true
      @last ||= @server.stopping? || too_much_unread?
      message(@last ? LAST : 0, head, length, bytes)
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
      length = chunks.size == 1 ? chunks[0].bytesize : chunks.sum(&:bytesize)
      return write(start(head, length), *chunks) if length > ONE_WRITE
      return write(start(head, length, chunks[0])) if chunks.size == 1

      message = start(head, length)
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
    rescue *Connection::PEER_GONE
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
      message = start(head, Connection::FRAMES)
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

    # Partial hijack and Rack 3's streaming bodies: the socket is the application's from here on.
    def hand_over(head, taker)
      @sent = @hijacked = true
      write(message(LAST | RAW, head, Connection::FRAMES))
      taker.call(@io)
    end
  end
end
