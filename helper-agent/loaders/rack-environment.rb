# frozen_string_literal: true

# The Rack environment of a request's head. All of a request's strings are made here, so it is written for speed: the
# constant part is copied as a whole, names that every request has are never made again.

module PassengerLoader
  module Environment
    # What workers say first, in this order, of each request (docs/protocols.md, section 4).
    FIRST = %w[REQUEST_METHOD SCRIPT_NAME PATH_INFO QUERY_STRING REQUEST_URI SERVER_NAME SERVER_PORT SERVER_PROTOCOL
               SERVER_SOFTWARE REMOTE_ADDR REMOTE_PORT].freeze
    # Skips the request's header and each of these names, and takes their values, then the rest.
    VALUES_AND_REST = "@24#{FIRST.map { |name| "x#{name.bytesize + 1}Z*" }.join}a*"
    CONSTANT = {
      'rack.version' => [1, 3].freeze, 'rack.url_scheme' => 'http', 'rack.multithread' => false,
      'rack.multiprocess' => true, 'rack.run_once' => false, 'rack.hijack?' => true
    }.freeze
    # With room for what comes, so that it does not have to grow.
    TEMPLATE = FIRST.to_h { |name| [name, nil] }.merge(
      CONSTANT, %w[rack.input rack.errors rack.hijack rack.response_finished rack.after_reply].to_h { |name| [name, nil] }
    ).freeze
    # Other names, as keys: a hash copies and looks up each key that is not frozen. False: not for a request to say.
    # Clients choose them, so the number is bounded.
    NAMES = {} # rubocop:disable Style/MutableConstant
    MOST_NAMES = 1024

    private

    # The environment of the request in `@buffer`, but for what belongs to the connection.
    def environment_of_request
      env = @is_in_order ? in_order : in_any_order
      https = env['HTTPS']
      env['rack.url_scheme'] = 'https' unless https.nil? || https == '' || https == 'off' || https == '0'
      env
    end

    # A connection is one worker's, which does not change its ways: its first request shows what they are.
    def in_any_order
      pieces = @buffer.byteslice(Connection::HEADER_BYTES, @head_bytes).split("\0", -1)
      @is_in_order = FIRST.each_with_index.all? { |name, index| pieces[2 * index] == name }
      add(CONSTANT.dup, pieces)
    end

    def in_order
      env = TEMPLATE.dup
      head = @buffer.bytesize == @body_at ? @buffer : @buffer.byteslice(0, @body_at)
      env['REQUEST_METHOD'], env['SCRIPT_NAME'], env['PATH_INFO'], env['QUERY_STRING'], env['REQUEST_URI'],
        env['SERVER_NAME'], env['SERVER_PORT'], env['SERVER_PROTOCOL'], env['SERVER_SOFTWARE'], env['REMOTE_ADDR'],
        env['REMOTE_PORT'], rest = head.unpack(VALUES_AND_REST)
      add(env, rest.split("\0", -1))
    end

    # The last of several with the same name wins.
    def add(env, pieces)
      at = 0
      end_at = pieces.size
      while at < end_at
        name = NAMES[pieces[at]]
        name = remember(pieces[at]) if name.nil?
        env[name] = pieces[at + 1] if name
        at += 2
      end
      env
    end

    def remember(name)
      key = !name.start_with?('rack.') && -name
      NAMES[name] = key if NAMES.size < MOST_NAMES
      key
    end
  end
end
