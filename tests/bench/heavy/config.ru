# frozen_string_literal: true

# An application as large as a large Rails one once it is loaded: about 100 MB, half of it code, half of it data.
# A request does what requests do: it calls some of the code, reads some of the data, and leaves garbage behind. As in
# any large application most of what was loaded is not in use: the requests know one class and one row in five.

CLASSES = 600
METHODS = 20
ROWS = 130_000
IN_USE = 5

MODELS = Array.new(CLASSES) do |number|
  methods = Array.new(METHODS) do |index|
    <<~RUBY
      def attribute_#{index}(value = nil, scale: #{index}, label: "attribute #{index}")
        return @attribute_#{index} if value.nil? && defined?(@attribute_#{index})
        key = [label, scale, value].compact.join(":")
        @attribute_#{index} = { key: key, value: value.to_s * 2, scale: scale * #{number} }
        @attribute_#{index}.transform_values { |it| it.is_a?(String) ? it.upcase : it }
      end
    RUBY
  end
  Object.class_eval("class Model#{number}\n#{methods.join}\nself\nend", "model_#{number}.rb")
end

TABLE = Array.new(ROWS) { |n| { id: n, name: "row number #{n} of the table", tags: ["tag #{n % 97}", n.to_s] } }

APP = lambda do |env|
  return [200, {}, [Process.pid.to_s]] if env['PATH_INFO'] == '/pid'

  random = Random.new
  lines = Array.new(60) do
    model = MODELS[random.rand(CLASSES / IN_USE)].new
    row = TABLE[random.rand(ROWS / IN_USE)]
    model.public_send("attribute_#{random.rand(METHODS)}", row[:name]).to_s + row[:tags].join(',')
  end
  [200, { 'content-type' => 'text/plain' }, [lines.join("\n")]]
end

run APP
